"""A small training problem, and checkpoints of made states."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np

from pddm_jax import PDDM
from pddm_jax.losses.objectives import make_objective
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.sharding import data_mesh, global_batches, replicated
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import TrainState, init_state
from pddm_jax.training.step import make_train_step
from pddm_jax.types import Batch

P, K, WIDTH = 8, 3, 8
LABELS = np.repeat(np.arange(P, dtype=np.int32), K)
SGD = {
    "name": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 0.0,
    "schedule": "constant",
    "clip_norm": 1e9,
    "warmup": 0,
    "pddm_lr_multiplier": 1.0,
    "backbone_lr_multiplier": 1.0,
}


class Linear(nn.Module):
    """The smallest backbone."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))


SHAPE = (4, 4, 1)
NETWORK = EmbeddingNetwork(Linear(), WIDTH)


class Problem(NamedTuple):
    state: TrainState
    step: Callable
    batch: Batch


@cache
def compiled(objective, name, learning_rate):
    """A fresh state on the host, and the step; each is compiled once for all tests."""
    mesh = data_mesh()
    optimizer = make_optimizer(**SGD | {"name": name, "learning_rate": learning_rate}, steps=100)
    loss, _ = make_objective(objective, pairs=P * K * (K - 1) // 2)
    state = init_state(NETWORK, PDDM(WIDTH, WIDTH), optimizer, SHAPE, 0, mesh)
    return copy(state), make_train_step(NETWORK, loss, optimizer, mesh)


def make_problem(objective="contrastive", name="sgd", learning_rate=0.1):
    """A class is a pattern of 4 x 4 pixels, an image a noisy one."""
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 156, (P, *SHAPE))
    images = (patterns[LABELS] + rng.integers(0, 100, (P * K, *SHAPE))).astype(np.uint8)
    state, step = compiled(objective, name, learning_rate)
    mesh = data_mesh()
    (batch,) = global_batches(iter([Batch(images, LABELS)]), mesh)
    return Problem(jax.device_put(state, replicated(mesh)), step, batch)


def copy(tree):
    return jax.tree.map(np.array, tree)


def state_of(step):
    params = {"network": {"kernel": np.arange(6, dtype=np.float32) + step}}
    return jax.device_put(TrainState(np.int32(step), params, {}, {}), replicated(data_mesh()))


def save(folder, scores, keep=2, about=None):
    with Checkpoints(folder, keep, scored=True) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, state_of(step), score, about)
