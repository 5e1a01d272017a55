"""Triplet loss: a positive closer than a negative by a margin, over all, semi-hard or hard triplets."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_scalars, check_choice
from pddm_jax.losses.pairs import positive_and_negative, same_class
from pddm_jax.numerics import Distances, all_distances, all_finite, masked_mean, nan_unless_finite
from pddm_jax.types import AnyArray, Scalar

TRIPLET_MINING = ("all", "semihard", "hard")


def triplet_loss(
    embeddings: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    margin: Scalar = 0.2,
    mining: str = "semihard",
) -> Float[Array, ""]:
    """A positive closer than a negative by `margin`: the mean of [margin + D_ap - D_an]+ over triplets.

    `mining` selects the triplets (a, p, n), with p a positive and n a negative of a:

    - "all": all that violate the margin (the others would only dilute the mean);
    - "semihard": for each (a, p) the nearest negative that is farther than p, or the farthest negative
      where there is none;
    - "hard": for each a the farthest positive and the nearest negative.

    Args:
        embeddings: [b, d].
        labels: [b], any integers.
        margin: between squared distances.
        mining: the selection of triplets.

    Returns:
        A scalar, 0 without triplets.

    Raises:
        ValueError: embeddings are not a matrix, labels are not b integers, or mining is unknown.

    Source: Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015, section 3 ("semihard"); Hermans,
    Beyer, Leibe, "In Defense of the Triplet Loss", 2017, section 2 ("all" is their batch-all
    over non-zero terms, "hard" their batch-hard, here with squared distances).
    """
    check_choice("mining", mining, TRIPLET_MINING)
    return _triplet(*same_class(embeddings, labels), *as_scalars(margin=margin), mining)


@partial(jax.jit, static_argnums=3)
def _triplet(x: Array, same: Array, margin: Array, mining: str) -> Array:
    if not len(x):
        return nan_unless_finite(jnp.zeros((), jnp.float32), x, margin)
    distances = all_distances(x)
    hinge, used = _triplet_hinges(distances, same, margin, mining)
    # XLA may contract the difference of two overflowing squares to a multiply-add, which is finite.
    finite = all_finite(distances.squared(distances.order))
    return nan_unless_finite(masked_mean(hinge, used), x, margin, fine=finite)


def _triplet_hinges(distances: Distances, same: Array, margin: Array, mining: str) -> tuple[Array, Array]:
    """The hinges of triplets, and the mask of those selected by `mining`."""
    positive, negative = positive_and_negative(same)
    order, squared = distances.order, distances.squared
    if mining == "hard":
        nearest = jnp.min(jnp.where(negative, order, jnp.inf), axis=1)
        farthest = jnp.max(jnp.where(positive, order, -jnp.inf), axis=1)
        usable = positive.any(axis=1) & negative.any(axis=1)
        gap = squared(jnp.where(usable, farthest, 0)) - squared(jnp.where(usable, nearest, 0))
        return jax.nn.relu(margin + gap), usable
    triplet = positive[:, :, None] & negative[:, None]
    if mining == "all":
        far = squared(order)
        hinge = jax.nn.relu(margin + far[:, :, None] - far[:, None])
        return hinge, triplet & (hinge > 0)
    to_positive, to_negative = order[:, :, None], order[:, None]
    farther = jnp.where(triplet & (to_negative > to_positive), to_negative, jnp.inf).min(axis=2)
    farthest = jnp.max(jnp.where(negative, order, -jnp.inf), axis=1, keepdims=True)
    usable = positive & negative.any(axis=1, keepdims=True)
    chosen = jnp.where(jnp.isfinite(farther), farther, farthest)
    return jax.nn.relu(margin + squared(order) - squared(jnp.where(usable, chosen, 0))), usable
