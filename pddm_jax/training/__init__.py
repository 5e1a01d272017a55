"""Training, step by step: the train state, the jitted step, the loop, checkpoints and resuming.

For loops of your own: `init_state`, `make_train_step`, `fit` and `make_embed`; docs/python.md has examples.
"""

from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import TrainState, TrainStep, init_state
from pddm_jax.training.step import Diverged, fit, make_embed, make_train_step

__all__ = [
    "Diverged",
    "TrainState",
    "TrainStep",
    "fit",
    "init_state",
    "make_embed",
    "make_optimizer",
    "make_train_step",
]
