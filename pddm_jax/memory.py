"""Memory that is free inside the process, given back to the system."""

import ctypes
from contextlib import suppress


def trim() -> None:
    """Give free memory back, where the C library can (glibc); milliseconds.

    Each checkpoint is written by new threads, and what they free stays scattered over the heaps that glibc
    keeps for threads: 80 KB a checkpoint of a small network, and more in hours than the run itself takes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
