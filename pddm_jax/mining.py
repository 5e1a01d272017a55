"""From the scores of a batch to its hard quadruplets: indices, without a gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_labels, as_matrix, check_choice
from pddm_jax.partners import NOBODY, Best, Extremes, best_partners
from pddm_jax.scoring import check_unit, hardest_partners
from pddm_jax.types import AnyArray, Params, Quadruplets

SCOPES = ("batch", "anchor", "positive")


def _check(per: str, size: int | None) -> None:
    check_choice("per", per, SCOPES)
    if size is not None and (per != "positive" or size < 0):
        raise ValueError(f'size must be a count of slots, with per="positive" only, got {size}')


def mine_quadruplets(
    scores: Float[AnyArray, "b b"], labels: Int[AnyArray, " b"], per: str = "batch", size: int | None = None
) -> Quadruplets:
    """The hard quadruplets (i, j, k, l) of a batch, from any matrix of scores (higher = more similar).

    (i, j) is a pair of one class, k = argmax of S(i, k) over the negatives of i, and l = argmax of
    S(j, l) over the negatives of j. Ties go to the lowest index. Which pairs (i, j), is the scope:

    - "batch": the one pair i < j of lowest score, the paper's; 1 slot.
    - "anchor": each image i with its positive j of lowest score; b slots, slot i for image i.
    - "positive": every pair i < j in order; b (b - 1) / 2 slots, or `size`.

    A slot is not valid where the image has no positive or no negative.

    Args:
        scores: [b, b] scores above -inf. For "batch" the entries above the diagonal tell the pair.
        labels: [b] class labels, any integers.
        per: the scope.
        size: number of slots for "positive", where it is known how many pairs there are (P classes
            of K images: P K (K - 1) / 2); pairs past the last slot are left out.

    Raises:
        ValueError: scores are no square matrix, labels are not b integers, the scope is unknown,
            or size is given for another scope than "positive".

    Source: Huang et al., NIPS 2016, section 3.2, for "batch"; the other two are this library's.
    """
    _check(per, size)
    scores = as_matrix("scores", scores)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be a square matrix, got shape {scores.shape}")
    labels = as_labels("labels", labels, len(scores))
    return _mine(scores, labels, per, size) if len(scores) else _nothing(per, size)


def mine_quadruplets_fused(
    params: Params,
    embeddings: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    per: str = "batch",
    size: int | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> Quadruplets:
    """`mine_quadruplets(score_matrix(params, embeddings), labels, per)`, never holding the scores.

    The same indices, by a running best per image, tile by tile: scoring keeps O(b d). A kernel does it for
    units of width 512 at most, on some TPUs and, in bfloat16, on an H100 or H200; it sums and rounds in
    another order, so that scores that differ by a rounding may fall otherwise.

    Args:
        params: parameters of a PDDM unit.
        embeddings: [b, d].
        labels, per, size: as for `mine_quadruplets`.
        dtype: type of the matrix products, float32 or bfloat16. In bfloat16 about one image in a hundred
            gets another partner, nearly as hard (docs/performance.md).

    Raises:
        ValueError: embeddings do not fit params, dtype is not one of the two, and as `mine_quadruplets`
            raises.
    """
    _check(per, size)
    embeddings = as_matrix("embeddings", embeddings, check_unit(params, dtype))
    labels = as_labels("labels", labels, len(embeddings))
    if not len(embeddings):
        return _nothing(per, size)
    return _mine_fused(params, embeddings, labels, per, size, jnp.dtype(dtype))


def _nothing(per: str, size: int | None) -> Quadruplets:
    """The slots of an empty batch."""
    none = jnp.zeros({"batch": 1, "anchor": 0, "positive": size or 0}[per], jnp.int32)
    return Quadruplets(none, none, none, none, none.astype(bool))


@partial(jax.jit, static_argnums=(2, 3))
def _mine(scores: Array, labels: Array, per: str, size: int | None) -> Quadruplets:
    scores = jax.lax.stop_gradient(scores)
    same = labels[:, None] == labels
    image = jnp.arange(len(labels))
    partner = jnp.broadcast_to(image, same.shape)
    positive = same & (image[:, None] != image)
    return _quadruplets(
        Extremes(
            best_partners(scores, ~same, partner),
            best_partners(-scores, positive, partner),
            best_partners(-scores, positive & (image[:, None] < image), partner),
        ),
        labels,
        per,
        size,
    )


@partial(jax.jit, static_argnums=(3, 4, 5))
def _mine_fused(
    params: Params, embeddings: Array, labels: Array, per: str, size: int | None, dtype: DTypeLike
) -> Quadruplets:
    params, embeddings = jax.lax.stop_gradient((params, embeddings))
    return _quadruplets(hardest_partners(params, embeddings, labels, dtype), labels, per, size)


def _quadruplets(extremes: Extremes, labels: Array, per: str, size: int | None) -> Quadruplets:
    negative, positive, later = extremes
    if per == "batch":
        i = jnp.argmax(later.value, keepdims=True)
        j = later.partner[i]
    elif per == "anchor":
        i, j = jnp.arange(len(labels)), positive.partner
    else:
        i, j = _positive_pairs(labels, size)
    return _with_negatives(i, j, negative)


def _positive_pairs(labels: Array, size: int | None) -> tuple[Array, Array]:
    """The pairs i < j of one class; in slots that hold none, j is NOBODY."""
    b = len(labels)
    if size is None:
        i, j = (jnp.asarray(index) for index in np.triu_indices(b, 1))
        return i, jnp.where(labels[i] == labels[j], j, NOBODY)
    # Sorted by class, and by place within one, the pairs of an image are those that follow it in its class.
    order = jnp.argsort(labels, stable=True)
    place = jnp.argsort(order)
    later = jnp.searchsorted(labels[order], labels, side="right") - 1 - place
    i = jnp.repeat(jnp.arange(b), later, total_repeat_length=size)
    nth = jnp.arange(size) - (jnp.cumsum(later) - later)[i]
    return i, jnp.where(nth < later[i], order[(place + 1)[i] + nth], NOBODY)


def _with_negatives(i: Array, j: Array, negative: Best) -> Quadruplets:
    k = negative.partner[i]
    valid = (j != NOBODY) & (k != NOBODY)
    j = jnp.where(valid, j, 0)
    i, j, k, l = (jnp.where(valid, x, 0).astype(jnp.int32) for x in (i, j, k, negative.partner[j]))  # noqa: E741
    return Quadruplets(i, j, k, l, valid)
