"""Lines for who watches a run, and errors in one line whatever names of files they hold."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax


def visible(text: str) -> str:
    """The text with line breaks, control characters and bytes that are no text as escapes."""
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def one_line(text: str) -> str:
    """The text with line breaks as spaces and other characters that cannot be printed as escapes."""
    spaced = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in spaced)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """ValueErrors and OSErrors with their words as `visible` shows them; also a decorator."""
    try:
        yield
    except (ValueError, OSError) as error:
        told = str(error)
        if told.isprintable():
            raise
        kind = type(error) if isinstance(error, OSError) else ValueError
        raise kind(visible(told)) from error


def tell(text: str) -> None:
    """Write one line to stderr in one piece: Ctrl-C between two writes, as `print` makes, would cut it.

    A terminal that is gone (SIGHUP) is no reason to end: from then on nothing is shown. Nor is a stderr
    that is closed.
    """
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:
        mute()
    except ValueError:  # a closed file
        return


def mute() -> None:
    """Show nothing any more, on stdout and stderr."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def say(text: str) -> None:
    """Tell how a run gets on, once for all processes."""
    if jax.process_index() == 0:
        tell(text)
