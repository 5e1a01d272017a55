"""One-line messages on stderr, and error texts without control characters."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import jax


def visible(text: str) -> str:
    """The text with line breaks, control characters and undecodable bytes as escapes."""
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def one_line(text: str) -> str:
    """The text with line breaks as spaces and other unprintable characters as escapes."""
    spaced = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in spaced)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Escape the text of a ValueError or OSError by `visible`; also a decorator."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        if text.isprintable():
            raise
        kind = type(error) if isinstance(error, OSError) else ValueError
        raise kind(visible(text)) from error


def print_line(text: str) -> None:
    """Write one line to stderr by a single write, which Ctrl-C cannot cut in two as it can `print`.

    If the terminal is gone (SIGHUP) or stderr is closed, nothing is shown and nothing is raised.
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
    """Redirect stdout and stderr to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


def print_in_process_0(text: str) -> None:
    """Write one line to stderr in process 0."""
    if jax.process_index() == 0:
        print_line(text)
