"""The double-header hinge: the loss of PDDM over mined quadruplets."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_matrix, as_scalars
from pddm_jax.numerics import all_finite, masked_mean, nan_unless_finite, squared_distances
from pddm_jax.pddm.unit import as_unit, check_unit, pair_scores
from pddm_jax.sharding import shard_like
from pddm_jax.types import AnyArray, Params, Quadruplets, Scalar


def hinge_means(
    params: Params | None,
    x: Float[Array, "b d"],
    mined: Quadruplets,
    *,
    alpha: Scalar,
    beta: Scalar,
    heads: int = 2,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The means of E_m and E_e over the valid quadruplets; see `double_header_hinge`.

    Without params there is no score, and E_m is 0. One head leaves out the hinges of the negative of j: the
    triplet form. Quadruplets are sharded over the devices that x lies on.
    """
    *indices, valid = shard_like(mined, like=x)
    in_range = jnp.stack([(index >= 0) & (index < len(x)) for index in indices])
    fine = jnp.all(in_range | ~valid)
    if not len(x):
        zero = nan_unless_finite(jnp.zeros((), jnp.float32), x, params, (alpha, beta), fine=fine)
        return zero, zero
    usable = in_range & valid  # a slot that is not valid compares the first image with itself
    indices = [jnp.where(usable[n], index, 0).astype(jnp.int32) for n, index in enumerate(indices)]
    i, j, k, l = indices  # noqa: E741
    near, far = x[jnp.stack([i, i, j])], x[jnp.stack([j, k, l])]
    distances = squared_distances(near, far)
    # XLA may contract the difference of two overflowing squares to a multiply-add, which is finite.
    fine &= all_finite(distances)
    hinges = jax.nn.relu(beta + distances[0] - distances[1:])
    embedding = masked_mean(jnp.sum(hinges[:heads], axis=0), valid)
    embedding = nan_unless_finite(embedding, x, beta, fine=fine)
    if params is None:
        return jnp.zeros((), jnp.float32), embedding
    scores = pair_scores(params, near, far)
    hinges = jax.nn.relu(alpha + scores[1:] - scores[0])
    metric = masked_mean(jnp.sum(hinges[:heads], axis=0), valid)
    return nan_unless_finite(metric, x, params, alpha, fine=fine & all_finite(scores)), embedding


def double_header_hinge(
    params: Params,
    embeddings: Float[AnyArray, "b d"],
    quadruplets: Quadruplets,
    alpha: Scalar = 0.5,
    beta: Scalar = 1.0,
    weight: Scalar = 0.5,
) -> Float[Array, ""]:
    """The loss of PDDM: the mean of E_m + weight * E_e over the valid quadruplets, 0 without any.

        E_m = [alpha + S_ik - S_ij]+ + [alpha + S_jl - S_ij]+      (similarity scores)
        E_e = [beta  + D_ij - D_ik]+ + [beta  + D_ij - D_jl]+      (squared distances)

    Only the pairs of the quadruplets are scored: memory, also of the gradient, is O(q d).

    Args:
        params: parameters of a PDDM unit.
        embeddings: [b, d], of unit length.
        quadruplets: indices into the batch, as mined from it; the loss is NaN if a valid one is out of
            range.
        alpha: margin between scores.
        beta: margin between squared distances (of unit vectors: 0 to 4).
        weight: lambda, the weight of E_e.

    Raises:
        ValueError: embeddings are not a matrix or do not fit params, or quadruplets are not four vectors of
            integers and one of bools, all of one length.

    Source: Huang et al., NIPS 2016, section 3.2; the default constants are common to the public
    re-implementations.
    """
    x = as_matrix("embeddings", embeddings, check_unit(params))
    scalars = as_scalars(alpha=alpha, beta=beta, weight=weight)
    return _double_header(as_unit(params), x, _as_quadruplets(quadruplets), *scalars)


@jax.jit
def _double_header(
    params: Params, x: Array, mined: Quadruplets, alpha: Array, beta: Array, weight: Array
) -> Array:
    metric, embedding = hinge_means(params, x, mined, alpha=alpha, beta=beta)
    return nan_unless_finite(metric + weight * embedding, weight)


def _as_quadruplets(quadruplets: Quadruplets) -> Quadruplets:
    """The checked quadruplets; host indices beyond 32 bits become indices that are out of range."""
    if not isinstance(quadruplets, tuple | list) or len(quadruplets) != 5:
        raise ValueError("quadruplets must be the five vectors i, j, k, l, valid, as they are mined")
    shapes = [jnp.shape(part) for part in quadruplets]
    if len(shapes[0]) != 1 or {*shapes} != {shapes[0]}:
        raise ValueError(f"quadruplets must be vectors of one length, got shapes {shapes}")
    *kinds, last = (jnp.result_type(part) for part in quadruplets)
    if last != jnp.bool_ or not all(jnp.issubdtype(kind, jnp.integer) for kind in kinds):
        found = ", ".join(str(kind) for kind in (*kinds, last))
        raise ValueError(f"quadruplets must be four vectors of integers and one of bools, got {found}")
    i, j, k, l = (_as_index(part) for part in quadruplets[:4])  # noqa: E741
    return Quadruplets(i, j, k, l, valid=jnp.asarray(quadruplets[4]))


def _as_index(index: Int[AnyArray, " q"]) -> Int[Array, " q"]:
    if isinstance(index, jax.Array):
        return index
    index = np.asarray(index)
    return jnp.asarray(
        index
        if index.itemsize <= 4
        else np.where((index < 0) | (index >= 2**31), -1, index).astype(np.int32)
    )
