"""Workarounds for memory that saving checkpoints would leak."""

import copy
import ctypes
import functools
from contextlib import suppress
from typing import Any


def trim() -> None:
    """Return free memory to the system by glibc's `malloc_trim`, if there is one; takes milliseconds.

    New threads write each checkpoint, and the memory they free stays scattered over glibc's arenas: some
    kilobytes per checkpoint.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def stop_leaks() -> None:
    """Replace two functions of Orbax that leak memory in TensorStore (0.1.86) at each save and restore.

    TensorStore never releases the strings that it converts to Python objects:

    - `experimental_collect_matching_metrics`: 4 KB a call with a small network. Orbax only logs the result.
    - `KvStore.Spec.to_json`: 300 bytes a call. Orbax calls it for each array of a folder.
    """
    with suppress(ImportError):
        from orbax.checkpoint._src.serialization import tensorstore_utils as utils

        if hasattr(utils, "get_tensorstore_raw_bytes"):
            utils.get_tensorstore_raw_bytes = _no_bytes
        build = getattr(utils, "_build_ocdbt_kvstore_tspec", None)
        if build and not isinstance(build, _OncePerFolder):
            utils._build_ocdbt_kvstore_tspec = _OncePerFolder(build)


def _no_bytes(*_: Any, **__: Any) -> int:
    return 0


class _OncePerFolder:
    """Orbax's specification of an array's place, built once a folder: only its `path` is the array's."""

    def __init__(self, build: Any) -> None:
        self._of_folder = functools.lru_cache(maxsize=8)(build)

    def __call__(self, directory: str, name: str | None = None, **options: Any) -> dict[str, Any]:
        spec: dict[str, Any] = copy.deepcopy(self._of_folder(directory, **options))
        return spec if name is None else spec | {"path": name}
