"""Joining the processes of a distributed run, and a one-line end if another process is lost.

If a peer is gone, JAX aborts the process from a C++ thread, with a stack trace on stderr. A filter, a small
process that reads stderr, passes all other lines on and writes one line in place of that trace. The output
of Python itself bypasses the filter.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax

HEARTBEAT = 30
"""Seconds without a heartbeat after which a process counts as lost."""
SHUTDOWN = 30
"""Seconds for which a process that ends waits for the others."""

_TEXT = (
    "error: another process of this run has ended or cannot be reached (see its output for the cause); "
    "repeat the commands to resume from the last checkpoint\n"
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
"""The program of the filter: after the first line of an abort it drops the rest, as the stack trace."""

_LOSS_MESSAGES = re.compile(
    r"^(UNAVAILABLE|DEADLINE_EXCEEDED): "
    r"|\bGloo [\w -]+ failed: |\bgloo/transport/|\bNCCL (error|operation|communicator)"
    r"|\bConnection (reset|closed|refused)( by peer|\b)|\bSocket closed\b"
    r"|\b[Cc]oordination (service|agent)|\bBarrier (timed out|failed)|\bheartbeat timeout\b"
)
"""Messages of XLA, Gloo, NCCL and of JAX's coordination service about a process that is gone."""


def join(coordinator: str | None, count: int | None, index: int | None) -> None:
    """Join the other processes, before JAX is used for anything else.

    Args:
        coordinator: HOST:PORT of process 0; None = JAX finds it, as on a pod.
        count: the number of processes; None = likewise.
        index: of this process; None = likewise.

    Raises:
        ValueError: an argument is missing, or the others were not found.
    """
    _filter_stderr()
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        _to_filter(_QUIET)
        line = " ".join(str(error).split())[:200]
        if isinstance(error, ValueError) and coordinator is None:
            raise ValueError(
                f"--distributed: JAX found no coordinator ({line}): give --coordinator, --num_processes "
                "and --process_id"
            ) from error
        raise ValueError(
            f"--distributed: cannot join the other processes{f' at {coordinator}' if coordinator else ''}: "
            f"{line}; check the address and that all of them run"
        ) from error


def _filter_stderr() -> None:
    """Pass the stderr of everything but Python through the filter, if there is a stderr."""
    if sys.stderr is None:
        return
    terminal = os.dup(2)
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    # In its own session Ctrl-C does not end it. It ends when its input is closed.
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
    """End the process with one line and status 1 if the block fails because another process is lost."""
    try:
        yield
    except Exception as error:
        if jax.distributed.is_initialized():
            if is_loss(error):
                _to_filter(_LOST)
                os._exit(1)  # JAX would wait for the lost process
            _to_filter(_QUIET)
        raise


def is_loss(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is about a lost process.

    Only errors of JAX count: the text of other errors may contain paths or names of classes.
    """
    cause: BaseException | None = error
    while cause is not None:
        # After this line JAX quotes what a Python callback raised.
        text = str(cause).split("Traceback (most recent call last)")[0]
        if isinstance(cause, jax.errors.JaxRuntimeError) and _LOSS_MESSAGES.search(text):
            return True
        cause = cause.__cause__
    return False


def _to_filter(line: bytes) -> None:
    with suppress(OSError):  # the filter has ended, or stderr is closed
        os.write(2, line)
