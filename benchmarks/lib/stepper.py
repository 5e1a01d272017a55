"""A train step as a function without arguments, for timing."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

from pddm_jax.losses.objectives import Logs
from pddm_jax.training.state import TrainState
from pddm_jax.types import Batch


@dataclass
class Stepper:
    """A train step on one batch, where each call takes the state of the call before."""

    step: Callable[[TrainState, Batch], tuple[TrainState, Logs]]
    state: TrainState
    batch: Batch

    def __call__(self) -> jax.Array:
        """Run a step; its loss."""
        self.state, logs = self.step(self.state, self.batch)
        return logs["loss"]
