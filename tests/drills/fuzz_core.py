"""What every target of the fuzzer shares: one call, judged by the rule of the library.

The rule: the right value, or one readable line that names an argument, a field or a file; within seconds,
and without a warning.
"""

import io
import re
import signal
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, NamedTuple

from absl import logging

REFUSALS = (ValueError, OSError)
SLOW = 10  # seconds of a processor that a case may take, whatever else runs on the machine
STUCK = 60  # seconds of a clock
LONGEST = 2000  # characters of a line

VALUE, REFUSED = "right values", "refusals"


class Wrong(AssertionError):
    """The rule was broken; the text says how."""


class Late(Wrong):
    """It took too long."""


class Target(NamedTuple):
    """A kind of input."""

    name: str
    cases: Any  # a Hypothesis strategy of literals, so that a failure is reproduced by its text
    check: Callable[[Any], str]  # VALUE or REFUSED; raises Wrong
    share: int = 1  # of the inputs of a run, relative to the other targets
    memory: int = 3 * 2**30  # bytes that the target may take beyond what it begins with


class Outcome(NamedTuple):
    """What a call did."""

    value: Any
    error: Exception | None


def _late(number, frame):
    raise Late(f"takes more than {SLOW} s of a processor, or {STUCK} s")


def attempt(
    function: Callable[[], Any], names: tuple[str, ...], refusals: tuple[type[Exception], ...] = REFUSALS
) -> Outcome:
    """Call a function; what it raises must be a line that holds one of `names`, where there are any.

    One that is late is called again: the first call may have compiled.
    """
    try:
        return _attempt(function, names, refusals)
    except Late:
        return _attempt(function, names, refusals)


def _attempt(
    function: Callable[[], Any], names: tuple[str, ...], refusals: tuple[type[Exception], ...]
) -> Outcome:
    printed = io.StringIO()
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _late)
    signal.setitimer(signal.ITIMER_REAL, STUCK)
    signal.setitimer(signal.ITIMER_PROF, SLOW)
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            redirect_stderr(printed),
            redirect_stdout(printed),
        ):
            warnings.filterwarnings("always", append=True)  # after those of the library
            try:
                outcome = Outcome(function(), None)
            except Wrong:
                raise
            except refusals as error:
                outcome = Outcome(None, error)
            except Exception as error:
                raise Wrong(f"raises {type(error).__name__}: {str(error)[:300]}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    # Of packages between themselves Python shows none.
    caught = [
        x for x in caught if not (x.category is DeprecationWarning and "/pddm_jax/" not in x.filename)
    ]
    if caught:
        raise Wrong(f"warns: {caught[0].category.__name__}: {str(caught[0].message)[:300]}")
    if "Traceback" in printed.getvalue():
        raise Wrong(f"prints a traceback: {printed.getvalue()[-300:]}")
    if outcome.error is not None and names:
        check_line(str(outcome.error), names)
    return outcome


def check_line(text: str, names: tuple[str, ...]) -> None:
    """Raise Wrong unless a text is one readable line that holds one of `names`."""
    if not text.strip():
        raise Wrong("an error without words")
    if len(text.splitlines()) > 1 and "does not fit" not in text:
        raise Wrong(f"an error of {len(text.splitlines())} lines: {text[:300]!r}")
    if "does not fit" not in text and not text.isprintable():
        raise Wrong(f"an error that cannot be printed: {text[:300]!r}")
    if len(text) > LONGEST:
        raise Wrong(f"an error of {len(text)} characters: {text[:200]!r}")
    if not any(re.search(rf"(?<!\w){re.escape(name)}", text) for name in names):
        raise Wrong(f"an error that names none of {', '.join(names)}: {text[:300]!r}")
    if " at 0x7f" in text:
        raise Wrong(f"an error that tells of an address: {text[:300]!r}")


def settled(outcome: Outcome) -> str:
    """The kind of an outcome whose value is right."""
    return VALUE if outcome.error is None else REFUSED


def silence() -> None:
    """What the library logs by design (how many queries are left out) is not shown."""
    logging.set_verbosity(logging.FATAL)
