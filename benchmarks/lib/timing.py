"""Interleaved timing of functions."""

import statistics
import time
from collections.abc import Callable

import jax


def interleaved(functions: dict[str, Callable[[], jax.Array]], rounds: int, calls: int) -> dict[str, float]:
    """The median seconds of a call of each function.

    The functions take turns in short runs of calls. The first call of a run is not counted: it pays for the
    state that the function before it left, such as freed memory and cold caches.

    Args:
        functions: by name; each call must compute anew.
        rounds: how often each function has its turn.
        calls: counted calls per turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(rounds):
        for name, function in functions.items():
            for call in range(calls + 1):
                since = time.perf_counter()
                jax.block_until_ready(function())
                if call:
                    seconds[name].append(time.perf_counter() - since)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
