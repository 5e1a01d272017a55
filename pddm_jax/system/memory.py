"""Memory that saving checkpoints would keep."""

import ctypes
from contextlib import suppress
from typing import Any


def trim() -> None:
    """Give free memory back to the system, where the C library can (glibc); this takes milliseconds.

    Each checkpoint is written by new threads, and what they free stays scattered over the heaps that glibc
    keeps for threads: some kilobytes a checkpoint.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def stop_io_metrics() -> None:
    """Keep Orbax from collecting TensorStore's I/O metrics at each save and restore, which it only logs.

    `tensorstore.experimental_collect_matching_metrics` never frees what it returns (0.1.86): 4 KB
    a call with a small network, so a run that saves often grows by hundreds of megabytes an hour.
    """
    with suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
            tensorstore_utils.get_tensorstore_raw_bytes = _no_bytes


def _no_bytes(*_: Any, **__: Any) -> int:
    return 0
