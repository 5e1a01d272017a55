"""Collective decisions of several processes by JAX broadcasts; with one process nothing is sent."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

_LENGTH = 2000  # bytes of a text that one process sends to the others


class FailedElsewhere(OSError):
    """Another process failed in a block that all processes run together."""


@contextmanager
def share_errors() -> Iterator[None]:
    """Run a block in all processes; an error in one of them raises in all of them.

    Otherwise the others would wait for the failed one in their next collective operation.

    Raises:
        FailedElsewhere: another process failed, and this one did not.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    problem = any_problem("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    if problem:
        raise FailedElsewhere(problem)


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
    """The problem of the first process that has one, in every process; empty if none has."""
    if jax.process_count() == 1:
        return problem
    data = np.zeros(_LENGTH, np.uint8)
    encoded = problem.encode()[:_LENGTH]
    data[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(data)).astype(np.uint8).reshape(-1, _LENGTH)
    texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gathered]
    return next((text for text in texts if text), "")
