"""Keeps off the terminal what Orbax and TensorStore print of an error that is raised besides."""

import gc
import inspect
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self


class Quiet:
    """A context within which errors that Orbax logs are not shown: it logs them before it raises them.

    Nor is what Python and asyncio print of reads and writes that end after the first has failed, and find
    their event loop closed, or nobody that waits for them. Contexts may overlap, in all threads: the end of
    the last one undoes what the first one has changed.
    """

    def __enter__(self) -> Self:
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
    """What all contexts change together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._failed = False
        self._rule: Any = None
        self._former: Callable[[Any], Any] = sys.unraisablehook
        self._hook: Callable[[Any], Any] = sys.unraisablehook

    def enter(self) -> None:
        """Begin a context."""
        with self._lock:
            self._depth += 1
            if self._depth > 1:
                return
            self._failed = False
            logging.getLogger("absl").addFilter(_not_of_orbax)
            logging.getLogger("asyncio").addFilter(_is_retrieved)
            warnings.filterwarnings("ignore", "coroutine '_read_array", RuntimeWarning)
            self._rule = warnings.filters[0]
            self._former = sys.unraisablehook
            self._hook = _Unraisable(self._former).hook
            sys.unraisablehook = self._hook

    def exit(self, failed: bool) -> None:
        """End a context."""
        with self._lock:
            self._failed |= failed
            self._depth -= 1
            if self._depth:
                return
            if self._failed:
                gc.collect()  # what nobody waits for is told of when it is collected: now
            logging.getLogger("absl").removeFilter(_not_of_orbax)
            logging.getLogger("asyncio").removeFilter(_is_retrieved)
            rules = [rule for rule in warnings.filters if rule is not self._rule]
            if len(rules) < len(warnings.filters) and isinstance(warnings.filters, list):
                warnings.filters[:] = rules
            if sys.unraisablehook is self._hook:
                sys.unraisablehook = self._former


_shared = _Shared()


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname or logging.getLogger("absl").isEnabledFor(logging.INFO)


def _is_retrieved(record: logging.LogRecord) -> bool:
    return "exception was never retrieved" not in record.getMessage()


class _Unraisable(NamedTuple):
    """What Python does with an error that nobody can catch, but for those of an event loop that is gone."""

    former: Callable[[Any], Any]

    def hook(self, told: Any) -> None:
        if str(told.exc_value) != "Event loop is closed" and not inspect.iscoroutine(told.object):
            self.former(told)
