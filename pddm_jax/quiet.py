"""Keeps off the terminal what Orbax and TensorStore print of an error that is raised besides."""

import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self


class Quiet:
    """A context within which errors that Orbax logs are not shown: it logs them before it raises them.

    Reads and writes that end after the first has failed find their event loop closed, or nobody that
    waits for them; what Python and asyncio print of that, at any time later, is not shown from now on.
    """

    def __enter__(self) -> Self:
        logging.getLogger("absl").addFilter(_not_of_orbax)
        logging.getLogger("asyncio").addFilter(_is_retrieved)
        warnings.filterwarnings("ignore", "coroutine '_read_array", RuntimeWarning)
        if not isinstance(getattr(sys.unraisablehook, "__self__", None), _Unraisable):
            sys.unraisablehook = _Unraisable(sys.unraisablehook).hook
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        logging.getLogger("absl").removeFilter(_not_of_orbax)


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
