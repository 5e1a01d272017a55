"""Multi-similarity loss: mined pairs, weighted by their similarity and by that of their neighbors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_scalars
from pddm_jax.losses.pairs import positive_and_negative, same_class
from pddm_jax.numerics import all_finite, nan_unless_finite
from pddm_jax.sharding import shard_like
from pddm_jax.types import AnyArray, Scalar


def multi_similarity_loss(
    embeddings: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
    base: Scalar = 0.5,
    margin: Scalar = 0.1,
) -> Float[Array, ""]:
    """Mined pairs, weighted by their similarity and by that of their neighbors.

        mean over i of  1/alpha log(1 + sum_j exp(-alpha (s_ij - base)))      j: mined positives
                      + 1/beta  log(1 + sum_k exp(  beta (s_ik - base)))      k: mined negatives

    with s the dot product. A positive j is mined where s_ij - margin is below the highest negative
    of i, a negative k where s_ik + margin is above the lowest positive of i.

    Args:
        embeddings: [b, d], of unit length.
        labels: [b], any integers.
        alpha: sharpness for positives.
        beta: sharpness for negatives.
        base: the similarity around which pairs are weighted.
        margin: slack of the mining.

    Returns:
        A scalar; an image without mined pairs counts as 0.

    Raises:
        ValueError: embeddings are not a matrix, or labels are not b integers.

    Source: Wang, Han, Huang, Dong, Scott, "Multi-Similarity Loss with General Pair Weighting for
    Deep Metric Learning", CVPR 2019, equations 11 to 16; constants of the authors' code.
    """
    scalars = as_scalars(alpha=alpha, beta=beta, base=base, margin=margin)
    return _multi_similarity(*same_class(embeddings, labels), *scalars)


@jax.jit
def _multi_similarity(
    x: Array, same: Array, alpha: Array, beta: Array, base: Array, margin: Array
) -> Array:
    positive, negative = positive_and_negative(same)
    similarity = jnp.matmul(shard_like(x, like=x), x.T, precision="highest")
    lowest = jnp.min(jnp.where(positive, similarity, jnp.inf), axis=1, keepdims=True, initial=jnp.inf)
    highest = jnp.max(jnp.where(negative, similarity, -jnp.inf), axis=1, keepdims=True, initial=-jnp.inf)

    def weighted(mined: Array, exponent: Array) -> Array:
        """log(1 + sum of exp), the 1 as one more term of exponent 0."""
        terms = jnp.where(mined, exponent, -jnp.inf)
        return jax.nn.logsumexp(jnp.pad(terms, ((0, 0), (0, 1))), axis=1)

    positives = weighted(positive & (similarity - margin < highest), -alpha * (similarity - base))
    negatives = weighted(negative & (similarity + margin > lowest), beta * (similarity - base))
    value = jnp.sum(positives / alpha + negatives / beta) / max(len(x), 1)
    # Overflowing products are equal, so that mining finds nothing among them.
    return nan_unless_finite(value, x, (alpha, beta, base, margin), fine=all_finite(similarity))
