"""Several processes as one run: how they join, and how each ends when another is lost.

JAX aborts a process whose peer is gone, from a thread of C++ and with a stack trace on stderr. So a small
process of its own stands before stderr: it passes all lines on, but for those of that abort, in place of
which it writes one. What Python writes goes straight to the terminal.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax

HEARTBEAT = 30
"""Seconds without a sign of life after which a process counts as lost."""
SHUTDOWN = 30
"""Seconds that a process which ends waits for the others."""

_TEXT = (
    "error: another process of this run has ended or cannot be reached (what it said tells why): the same "
    "commands go on after the last checkpoint\n"
)
_LOST, _QUIET = b"\x00lost\n", b"\x00quiet\n"
_FILTER = f"""
import sys
said = aborts = False
for line in sys.stdin.buffer:
    fatal = line[:1] in b"EF" and b" coordination_service" in line
    fatal = fatal or line[:1] == b"F" and b"JAX distributed service" in line
    if line.startswith(b"Fatal Python error: ") and b": Aborted" not in line:
        aborts = False
    if line == {_QUIET!r}:
        said = True
    elif fatal or line.endswith({_LOST!r}):
        if not said:
            sys.stdout.write({_TEXT!r})
        said = aborts = True
    elif not aborts and b"preemption_sync_manager" not in line and b"GRPC error" not in line and (
        not line.startswith(b":UNKNOWN:Error received from peer")
    ):
        sys.stdout.buffer.write(line)
    sys.stdout.flush()
"""
"""A program: after a line of the abort the rest of it is not passed on, such as its stack trace."""

_SIGNS = re.compile(
    r"^(UNAVAILABLE|DEADLINE_EXCEEDED): "
    r"|\bGloo [\w -]+ failed: |\bgloo/transport/|\bNCCL (error|operation|communicator)"
    r"|\bConnection (reset|closed|refused)( by peer|\b)|\bSocket closed\b"
    r"|\b[Cc]oordination (service|agent)|\bBarrier (timed out|failed)|\bheartbeat timeout\b"
)
"""Of the messages of XLA, Gloo, NCCL and of JAX's coordination service when a process is gone."""


def join(coordinator: str | None, count: int | None, place: int | None) -> None:
    """Join the other processes, before JAX is used for anything else.

    Args:
        coordinator: HOST:PORT of process 0; None = JAX finds it, as on a pod.
        count: how many processes there are, likewise.
        place: which of them this one is, likewise.

    Raises:
        ValueError: an argument is missing, or the others were not found.
    """
    _filter_stderr()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            place,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        _to_filter(_QUIET)
        line = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--distributed: the other processes were not found at {coordinator}: {line}"
        ) from error


def _filter_stderr() -> None:
    """Let the filter read what anything but Python writes to stderr, where there is a stderr."""
    if sys.stderr is None:
        return
    terminal = os.dup(2)
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    # In a session of its own Ctrl-C does not end it. It ends when nobody can write to it any more.
    subprocess.Popen(
        command, stdin=read, stdout=terminal, stderr=subprocess.DEVNULL, start_new_session=True
    )
    sys.stderr = os.fdopen(
        terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
    )
    os.dup2(write, 2)
    os.close(read)
    os.close(write)


@contextmanager
def watched() -> Iterator[None]:
    """End the process with one line and status 1 where the block fails since another process is lost."""
    try:
        yield
    except Exception as error:
        if jax.distributed.is_initialized():
            if is_loss(error):
                _to_filter(_LOST)
                os._exit(1)  # not to wait for the other, which JAX would do
            _to_filter(_QUIET)
        raise


def is_loss(error: BaseException) -> bool:
    """Whether an error, or one that caused it, tells that another process is gone.

    Only JAX's own errors tell it: words of other errors may be of a path or the name of a class.
    """
    told: BaseException | None = error
    while told is not None:
        # What a callback of Python raised stands in JAX's error too, after this line.
        words = str(told).split("Traceback (most recent call last)")[0]
        if isinstance(told, jax.errors.JaxRuntimeError) and _SIGNS.search(words):
            return True
        told = told.__cause__
    return False


def _to_filter(word: bytes) -> None:
    with suppress(OSError):  # it has ended, or stderr is closed
        os.write(2, word)
