"""A context that suppresses the log lines of Orbax and asyncio about errors that are raised anyway."""

import gc
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from types import CoroutineType, TracebackType
from typing import Any, NamedTuple


class SuppressLogs:
    """A context that hides what Orbax logs about an error before it raises it.

    After a failed read or write, the other ones of TensorStore find their event loop closed or are never
    awaited; what Python and asyncio print about them is hidden too. They may report at any later time, so
    after an error these two filters stay. Otherwise the end of the last context restores what the first
    one changed; contexts may overlap, in all threads.
    """

    def __enter__(self) -> "SuppressLogs":
        _shared.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _shared.exit(failed=error is not None)


class _Shared:
    """The filters and hooks that all contexts share, with a count of open contexts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._failed = False
        self._warning_filter: Any = None
        self._former: Callable[[Any], Any] = sys.unraisablehook
        self._hook: Callable[[Any], Any] | None = None

    def enter(self) -> None:
        """Begin a context."""
        with self._lock:
            self._depth += 1
            if self._depth == 1:
                self.install()

    def exit(self, failed: bool) -> None:
        """End a context."""
        with self._lock:
            self._failed |= failed
            self._depth -= 1
            if failed:
                gc.collect()  # most of the tasks that were never awaited report now
            if not self._depth:
                self.remove(late=not self._failed)

    def install(self) -> None:
        """Add the filters and the hook, unless they are there."""
        logging.getLogger("absl").addFilter(_is_not_from_orbax)
        logging.getLogger("asyncio").addFilter(_is_wanted)
        if self._warning_filter not in warnings.filters:
            warnings.filterwarnings("ignore", "coroutine '_read_array", RuntimeWarning)
            self._warning_filter = warnings.filters[0]
        if sys.unraisablehook is not self._hook:
            self._former = sys.unraisablehook
            self._hook = _Unraisable(self._former).hook
            sys.unraisablehook = self._hook

    def remove(self, late: bool = True) -> None:
        """Remove the filters, and the hook if no other came later.

        Args:
            late: also what hides the reports that may come at any later time.
        """
        logging.getLogger("absl").removeFilter(_is_not_from_orbax)
        if not late:
            return
        logging.getLogger("asyncio").removeFilter(_is_wanted)
        others = [other for other in warnings.filters if other is not self._warning_filter]
        if len(others) < len(warnings.filters) and isinstance(warnings.filters, list):
            warnings.filters[:] = others
        if sys.unraisablehook is self._hook:
            sys.unraisablehook = self._former


_shared = _Shared()


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or logging.getLogger("absl").isEnabledFor(logging.INFO)


def _is_wanted(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    from_orbax = "tensorstore" in message or "orbax" in message
    return not ("exception was never retrieved" in message and from_orbax)


class _Unraisable(NamedTuple):
    """A `sys.unraisablehook` that ignores errors of a closed event loop and of coroutines of Orbax.

    It uses no globals, which may be gone when it is called as the process ends.
    """

    former: Callable[[Any], Any]
    coroutine: Any = CoroutineType

    def hook(self, unraisable: Any) -> None:
        is_closed = str(unraisable.exc_value) == "Event loop is closed"
        of = unraisable.object
        if not is_closed and not (isinstance(of, self.coroutine) and "orbax" in of.cr_code.co_filename):
            self.former(unraisable)
