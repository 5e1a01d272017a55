"""Lifted structure loss: each positive pair against all negatives of both its images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_scalars
from pddm_jax.losses.pairs import positive_and_negative, same_class
from pddm_jax.numerics import all_distances, masked_mean, nan_unless_finite
from pddm_jax.types import AnyArray, Scalar


def lifted_structure_loss(
    embeddings: Float[AnyArray, "b d"], labels: Int[AnyArray, " b"], margin: Scalar = 1.0
) -> Float[Array, ""]:
    """Each positive pair against all negatives of both its images.

        J_ij = log( sum_k exp(margin - d_ik) + sum_l exp(margin - d_jl) ) + d_ij,   d = sqrt(D)
        loss = 1 / (2 |P|) * sum over (i, j) in P of [J_ij]+^2

    with k the negatives of i, l those of j, and P the positive pairs i < j that have negatives.

    Args:
        embeddings: [b, d].
        labels: [b], any integers.
        margin: between distances (not squared).

    Returns:
        A scalar, 0 where P is empty.

    Raises:
        ValueError: embeddings are not a matrix, or labels are not b integers.

    Source: Oh Song, Xiang, Jegelka, Savarese, "Deep Metric Learning via Lifted Structured Feature
    Embedding", CVPR 2016, equation 4 (the smooth bound).
    """
    return _lifted_structure(*same_class(embeddings, labels), *as_scalars(margin=margin))


@jax.jit
def _lifted_structure(x: Array, same: Array, margin: Array) -> Array:
    positive, negative = positive_and_negative(same)
    distances = all_distances(x).plain
    has_negative = negative.any(axis=1)
    # The logarithm excludes images without negatives: their sum is empty, its gradient NaN.
    terms = jnp.where(negative, margin - distances, jnp.where(has_negative[:, None], -jnp.inf, 0))
    near = jax.nn.logsumexp(terms, axis=1)
    pairs = jnp.triu(positive, 1) & has_negative[:, None] & has_negative
    structured = jnp.logaddexp(near[:, None], near) + distances
    return nan_unless_finite(masked_mean(jnp.square(jax.nn.relu(structured)), pairs) / 2, x, margin)
