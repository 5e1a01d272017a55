"""Contrastive loss: positive pairs close, negative pairs at least a margin apart."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_scalars
from pddm_jax.losses.pairs import positive_and_negative, same_class
from pddm_jax.numerics import all_distances, masked_mean, nan_unless_finite
from pddm_jax.types import AnyArray, Scalar


def contrastive_loss(
    embeddings: Float[AnyArray, "b d"], labels: Int[AnyArray, " b"], margin: Scalar = 1.0
) -> Float[Array, ""]:
    """Positive pairs close, negative pairs at least `margin` apart.

        mean over positive pairs of D_ij  +  mean over negative pairs of [margin - sqrt(D_ij)]+^2

    Each mean is over its own pairs, since a batch holds far more negative pairs than positive ones.

    Args:
        embeddings: [b, d].
        labels: [b], any integers.
        margin: least distance (not squared) of negative pairs.

    Returns:
        A scalar; a mean over no pairs is 0.

    Raises:
        ValueError: embeddings are not a matrix, or labels are not b integers.

    Source: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006, equation 4, balanced.
    """
    return _contrastive(*same_class(embeddings, labels), *as_scalars(margin=margin))


@jax.jit
def _contrastive(x: Array, same: Array, margin: Array) -> Array:
    positive, negative = positive_and_negative(same)
    distances = all_distances(x)
    push = jnp.square(jax.nn.relu(margin - distances.plain))
    pull = masked_mean(distances.squared(distances.order), positive)
    return nan_unless_finite(pull + masked_mean(push, negative), x, margin)
