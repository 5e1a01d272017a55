"""Lines for who watches a run."""

import os
import sys

import jax


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
