"""The training loop, which finds the first step whose logs are not finite."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import jax
import numpy as np

from pddm_jax.losses.objectives import Logs
from pddm_jax.training.state import TrainState, TrainStep
from pddm_jax.types import Batch


class Diverged(FloatingPointError):
    """The logs of a step are not finite.

    Attributes:
        step: the first one since logs were last fetched.
        values: of its logs, those that are not finite.
    """

    def __init__(self, step: int, values: dict[str, float]) -> None:
        super().__init__(f"training diverged at step {step}: {values}")
        self.step, self.values = step, values


def _ignore(step: int, logs: dict[str, float]) -> None:
    del step, logs


@dataclass
class PendingLogs:
    """Logs of steps that the device may not have made yet, the last one's among them."""

    observe: Callable[[int, dict[str, float]], None]
    last: int  # step of the newest
    pending: list[Logs] = field(default_factory=list)
    seen: int = 0  # the last step that was observed

    def add(self, step: int, logs: Logs) -> None:
        """Keep a step's logs; at times wait for the device, so that they stay few."""
        self.pending.append(logs)
        self.last = step
        if len(self.pending) >= MOST_PENDING:
            self()

    def __call__(self) -> dict[str, float]:
        """Wait for the device and return the last step's logs; Diverged where a step's were not finite."""
        fetched = jax.device_get(self.pending)
        for step, values in enumerate(fetched, self.last - len(fetched) + 1):
            bad = {name: float(value) for name, value in values.items() if not np.isfinite(value)}
            if bad:
                raise Diverged(step, bad)
            if step > self.seen:
                self.observe(step, {name: float(value) for name, value in values.items()})
                self.seen = step
        del self.pending[:-1]
        return {name: float(value) for name, value in fetched[-1].items()}


MOST_PENDING = 1024
"""Steps whose logs are kept on the device, at most."""


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    steps: int,
    after_step: Callable[[int, TrainState, Callable[[], dict[str, float]]], bool],
    observe: Callable[[int, dict[str, float]], None] = _ignore,
) -> TrainState:
    """Step until `steps`, or until `after_step(step, state, logs)` says to stop.

    `logs()` waits for the device and returns this step's logs as floats. It raises Diverged, a
    FloatingPointError that names the first step since the last call whose logs were not finite, so
    that nothing is written down or saved beyond a step that went wrong. With it `observe(step, logs)` is
    called for every step since the last call, once, in order.
    """
    logs = PendingLogs(observe, int(state.step))
    for step in range(logs.last + 1, steps + 1):
        state, values = train_step(state, next(batches))
        logs.add(step, values)
        if after_step(step, state, logs):
            break
    return state
