"""Workarounds for memory that saving checkpoints would leak."""

import ctypes
from contextlib import suppress
from typing import Any


def trim() -> None:
    """Return free memory to the system by glibc's `malloc_trim`, if there is one; takes milliseconds.

    New threads write each checkpoint, and the memory they free stays scattered over glibc's arenas: some
    kilobytes per checkpoint.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def stop_io_metrics() -> None:
    """Stop Orbax from collecting TensorStore's I/O metrics at each save and restore; it only logs them.

    `tensorstore.experimental_collect_matching_metrics` never frees its result (0.1.86): 4 KB per call with
    a small network, so a run that saves often grows by hundreds of megabytes per hour.
    """
    with suppress(ImportError, AttributeError):
        from orbax.checkpoint._src.serialization import tensorstore_utils

        if hasattr(tensorstore_utils, "get_tensorstore_raw_bytes"):
            tensorstore_utils.get_tensorstore_raw_bytes = _no_bytes


def _no_bytes(*_: Any, **__: Any) -> int:
    return 0
