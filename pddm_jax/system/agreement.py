"""What processes tell each other, so that all of them decide alike; with one process, nothing is sent."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

_LENGTH = 2000  # bytes of a text that one process tells the others


class FailedElsewhere(OSError):
    """Another process could not do its part of a step that all processes take together."""


@contextmanager
def together() -> Iterator[None]:
    """Let an error that the block raises in one process end the block in all of them.

    Without it the others would wait for the one that failed, in the next collective operation.

    Raises:
        FailedElsewhere: another process failed, and this one did not.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    told = any_problem("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    if told:
        raise FailedElsewhere(told)


def from_first(text: str) -> str:
    """The text of process 0, in every process."""
    if jax.process_count() == 1:
        return text
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text.encode()))))
    data = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
        data[:] = np.frombuffer(text.encode(), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(data)).astype(np.uint8)).decode()


def any_problem(problem: str) -> str:
    """The first problem that any process tells, in every process; empty where none has one."""
    if jax.process_count() == 1:
        return problem
    data = np.zeros(_LENGTH, np.uint8)
    encoded = problem.encode()[:_LENGTH]
    data[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    told = np.asarray(multihost_utils.process_allgather(data)).astype(np.uint8).reshape(-1, _LENGTH)
    texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in told]
    return next((text for text in texts if text), "")
