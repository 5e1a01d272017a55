"""What tells that another process is lost, and what of stderr is shown then."""

import subprocess
import sys

import jax
import pytest

from pddm_jax.system import peers

JaxError = jax.errors.JaxRuntimeError

LOSSES = [
    "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by "
    "peer [127.0.0.1]:4711",
    "FAILED_PRECONDITION: Gloo ReduceScatter failed: timed out",
    "UNAVAILABLE: failed to connect to all addresses",
    "DEADLINE_EXCEEDED: Barrier timed out. Id: surveyed:1",
    "INTERNAL: Coordination service has been shut down.",
    "INTERNAL: NCCL operation ncclAllReduce failed: remote process exited",
    "UNAVAILABLE: The following tasks are unhealthy: heartbeat timeout",
]


@pytest.mark.parametrize("text", LOSSES)
def test_jax_tells_of_a_lost_peer(text):
    assert peers.is_loss(JaxError(text))
    wrapped = ValueError("mine")
    wrapped.__cause__ = OSError(5, "not written")
    wrapped.__cause__.__cause__ = JaxError(text)
    assert peers.is_loss(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("data.root: no images in /data/igloo/train"),
        ValueError("class 'barrier_reef' has one image"),
        KeyError("heartbeat"),
        RuntimeError("/data/gloo/x: unavailable"),
        FloatingPointError("coordination"),
        *(ValueError(text) for text in LOSSES),
        *(OSError(5, text) for text in LOSSES),
        JaxError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes for /data/igloo"),
        JaxError("INVALID_ARGUMENT: barrier_reef is unavailable"),
        JaxError(
            "INTERNAL: CpuCallback error: Traceback (most recent call last)\n: Gloo all-reduce failed: "
        ),
    ],
)
def test_other_errors_tell_of_none_whatever_their_words(error):
    assert not peers.is_loss(error)


def shown(lines):
    """What the filter passes on."""
    command = [sys.executable, "-I", "-S", "-c", peers._FILTER]
    done = subprocess.run(command, input="".join(f"{x}\n" for x in lines).encode(), capture_output=True)
    assert not done.stderr
    return done.stdout.decode().splitlines()


FATAL = "F1130 04:00:00.1 9 client.h:80] Terminating process because the JAX distributed service detected"
ERROR = "E1130 04:00:00.1 9 coordination_service_agent.cc:332] Polled an error"
ABORT = [
    ERROR,
    FATAL,
    "*** Check failure stack trace: ***",
    "    @ 0x7f f()",
    "Fatal Python error: Aborted",
    "",
]
SEGFAULT = ["Fatal Python error: Segmentation fault", "", "Thread 0x1:"]
QUIET, LOST = "\0quiet", "\0lost"
TEXT = peers._TEXT.rstrip("\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a", *ABORT, "b"], ["a", TEXT]),
        (["a", LOST, *ABORT], ["a", TEXT]),
        (["a", f"half a line{LOST}", "b"], ["a", TEXT]),
        ([QUIET, "of a child", *ABORT, "b"], ["of a child"]),
        ([QUIET, *SEGFAULT], SEGFAULT),
        ([ERROR, *SEGFAULT], [TEXT, *SEGFAULT]),
    ],
)
def test_only_the_lines_of_an_abort_are_hidden(lines, expected):
    assert shown(lines) == expected


def test_where_the_filter_has_ended_the_error_itself_is_raised(monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(peers.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(peers.os, "write", broken)
    with pytest.raises(ValueError, match="mine"), peers.watched():
        raise ValueError("mine")
