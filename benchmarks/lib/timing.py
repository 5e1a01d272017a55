"""How functions are timed side by side."""

import statistics
import time
from collections.abc import Callable

import jax


def interleaved(functions: dict[str, Callable[[], jax.Array]], rounds: int, calls: int) -> dict[str, float]:
    """The median seconds of each function."""
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
    return {name: statistics.median(all_) for name, all_ in seconds.items()}
