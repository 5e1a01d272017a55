"""Exit codes and one-line messages of exceptions.

Exit codes: 0, done, or stopped by a signal with everything saved; 1, not a mistake of the user (training
diverged, no memory, no space, a bug); 2, a mistake of the user (a flag, a config, a file); 130, Ctrl-C.
"""

import dis
import errno

from absl import app, flags

from pddm_jax.system.console import one_line

MISHAP, MISTAKE, INTERRUPTED = 1, 2, 130

MACHINE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE", "EPIPE", "ESTALE", "EAGAIN", "ETIMEDOUT")
    if hasattr(errno, name)
}
"""Error numbers of an OSError that the machine causes, not the user."""

PROJECT = "pddm_jax", "experiments", "__main__"
"""Packages that raise a ValueError only for a mistake of the user, and the command itself."""

RERAISING = "grain", "concurrent", "multiprocessing"
"""Packages that raise an exception of a worker process again, without its traceback."""

MAX_LENGTH = 1800
"""Characters of an error; a value on the command line may be of any length."""


def verdict(error: Exception, lower: str) -> tuple[int, str]:
    """The exit code of an exception and the line that is printed for it.

    Args:
        error: the exception.
        lower: what to lower if memory ran out.
    """
    text, kind = clipped(one_line(str(error)), MAX_LENGTH), type(error).__name__
    described = f"{kind}: {text}" if text else kind
    if is_out_of_memory(error):
        detail = clipped(one_line(str(error).strip().split("\n", 1)[0]) or kind)
        return MISHAP, f"error: out of memory ({detail}): lower {lower}"
    if isinstance(error, OSError):
        return MISHAP if error.errno in MACHINE else MISTAKE, f"error: {text or described}"
    if isinstance(error, flags.Error | app.UsageError) or _is_mistake(error):
        return MISTAKE, f"error: {text or described}"
    if isinstance(error, FloatingPointError):
        return MISHAP, f"error: {text or described}"
    hint = "unexpected error, probably a bug: run with --debug for the traceback, and report it"
    return MISHAP, f"error: {clipped(described)} ({hint})"


def _is_mistake(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, is a ValueError that the project raises about its input."""
    while error is not None:
        if isinstance(error, ValueError) and (error.__traceback__ is None or _is_raised_here(error)):
            return True
        error = error.__cause__
    return False


def _is_raised_here(error: BaseException) -> bool:
    """Whether a `raise` statement of the project raised it, not a function of NumPy, JAX or Python."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    frame = trace.tb_frame
    if str(frame.f_globals.get("__name__")).partition(".")[0] not in (*PROJECT, *RERAISING):
        return False
    return frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host or a device has run out of memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def reason(error: Exception) -> str:
    """The text of an error in one line of bounded length; its type if it has no text."""
    return clipped(one_line(str(error)) or type(error).__name__, 200)


def clipped(text: str, length: int = 400) -> str:
    """The first characters of a text, and dots if there are more."""
    return text if len(text) <= length else f"{text[:length]} ..."
