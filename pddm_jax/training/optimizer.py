"""Optimizers by name: clipping, weight decay on kernels only, a schedule, and a rate for each part."""

import jax
import optax
from jaxtyping import Array, Float, Int, PyTree

from pddm_jax.checks import check_choice
from pddm_jax.types import OPTIMIZERS, SCHEDULES


def make_optimizer(
    name: str,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    clip_norm: float,
    warmup: int,
    pddm_lr_multiplier: float,
    backbone_lr_multiplier: float,
    steps: int,
) -> optax.GradientTransformation:
    """The optimizer: clipping by global norm, weight decay on kernels only, a schedule over `steps`.

    The rate rises over the first `warmup` steps. The PDDM unit learns at `pddm_lr_multiplier` times the
    rate, below 1, so that the score does not forget distance before the embedding is worth more; the
    network's backbone at `backbone_lr_multiplier` times the rate, below 1 where it is pretrained.

    Raises:
        ValueError: the name or the schedule is unknown.
    """
    check_choice("optimizer.name", name, OPTIMIZERS)
    check_choice("optimizer.schedule", schedule, SCHEDULES)
    warm = optax.linear_schedule(1 / (warmup + 1), 1.0, warmup)
    main = (
        optax.cosine_decay_schedule(learning_rate, steps)
        if schedule == "cosine"
        else optax.constant_schedule(learning_rate)
    )

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        return warm(step) * main(step)

    def kernels(params: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    if name == "adamw":
        descent = optax.adamw(rate, weight_decay=weight_decay, mask=kernels)
    else:
        descent = optax.chain(
            optax.add_decayed_weights(weight_decay, kernels), optax.sgd(rate, momentum=0.9)
        )

    def by_part(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree_util.tree_map_with_path(lambda path, x: factor(path) * x, updates)

    def factor(path: tuple[jax.tree_util.DictKey, ...]) -> float:
        names = tuple(key.key for key in path)
        if names[:1] == ("unit",):
            return pddm_lr_multiplier
        return backbone_lr_multiplier if names[:2] == ("network", "backbone") else 1.0

    return optax.chain(optax.clip_by_global_norm(clip_norm), descent, optax.stateless(by_part))
