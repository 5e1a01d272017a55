"""Mining of hard quadruplets from the scores of a batch: indices, without a gradient.

A comparison with NaN is false, so mining would silently ignore a NaN score. It raises a ValueError instead.
Under jit, where nothing can be raised, it returns quadruplets that name no image, and every loss over
them is NaN (`Quadruplets`).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pddm_jax.checks import as_count, as_labels, as_matrix, check_choice
from pddm_jax.numerics import all_distances, all_finite
from pddm_jax.pddm.backends import hardest_partners
from pddm_jax.pddm.partners import NO_PARTNER, Best, Extremes, best_partners
from pddm_jax.pddm.unit import as_unit, check_dtype, check_unit
from pddm_jax.types import AnyArray, Params, Quadruplets

SCOPES = ("batch", "anchor", "positive")


def _as_size(per: str, size: int | None) -> int | None:
    """The checked number of slots."""
    check_choice("per", per, SCOPES)
    if size is None:
        return None
    if per != "positive":
        raise ValueError(f'size must be None unless per is "positive", got {size!r} with per={per!r}')
    return as_count("size", size)


def mine_quadruplets(
    scores: Float[AnyArray, "b b"], labels: Int[AnyArray, " b"], per: str = "batch", size: int | None = None
) -> Quadruplets:
    """The hard quadruplets (i, j, k, l) of a batch, from any matrix of scores (higher = more similar).

    (i, j) is a pair of one class, k = argmax of S(i, k) over the negatives of i, and l = argmax of
    S(j, l) over the negatives of j. Ties go to the lowest index. The scope `per` selects the pairs (i, j):

    - "batch": the one pair i < j of lowest score, as in the paper; 1 slot.
    - "anchor": each image i with its positive j of lowest score; b slots, slot i for image i.
    - "positive": every pair i < j in order; b (b - 1) / 2 slots, or `size`.

    A slot is not valid where the image has no positive or no negative; no slot of an empty batch is.

    Args:
        scores: [b, b] finite scores. "batch" chooses the pair by the entries above the diagonal. Those on
            the diagonal are not used, and may be infinite.
        labels: [b] class labels, any integers.
        per: the scope.
        size: number of slots for "positive", where the number of pairs is known (P classes of K images have
            P K (K - 1) / 2); further pairs are dropped.

    Raises:
        ValueError: scores are not a square matrix or one is not finite, labels are not b integers, the
            scope is unknown, or size is not a count or given for another scope than "positive". Under jit,
            scores that are not finite give quadruplets that name no image; every loss over them is NaN.

    Source: Huang et al., NIPS 2016, section 3.2, for "batch"; the other two are this library's.
    """
    size = _as_size(per, size)
    scores = as_matrix("scores", scores)
    if scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores must be a square matrix, got shape {scores.shape}")
    labels = as_labels("labels", labels, len(scores))
    mined, finite = mine(scores, labels, per, size)
    if not isinstance(finite, jax.core.Tracer) and not finite:
        raise ValueError(_scores_error(np.asarray(scores)))
    return mined


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

    The same indices, by a running best per image, tile by tile: memory is O(b d). Units of width up to 512
    are mined by a kernel on some TPUs and, in bfloat16, on an H100 or H200. A kernel sums and rounds in
    another order, so scores that differ only by rounding may rank differently.

    Args:
        params: parameters of a PDDM unit.
        embeddings: [b, d].
        labels, per, size: as for `mine_quadruplets`.
        dtype: type of the matrix products, float32 or bfloat16. In bfloat16 about one image in a hundred
            gets another partner, nearly as hard (docs/performance.md).

    Raises:
        ValueError: embeddings do not fit params, either is not finite, scores overflow, dtype is not one
            of the two, or `mine_quadruplets` refuses an argument. Under jit as there.
    """
    size, dtype = _as_size(per, size), check_dtype(dtype)
    embeddings = as_matrix("embeddings", embeddings, check_unit(params))
    labels, params = as_labels("labels", labels, len(embeddings)), as_unit(params)
    mined, finite = mine_fused(params, embeddings, labels, per=per, size=size, dtype=dtype)
    if not isinstance(finite, jax.core.Tracer) and not finite:
        raise ValueError(_embeddings_error(params, np.asarray(embeddings)))
    return mined


def mine_by_distance(
    embeddings: Float[Array, "b d"], labels: Int[Array, " b"], per: str, size: int | None
) -> Quadruplets:
    """`mine_quadruplets` by Euclidean distance, correct at every scale; it never raises for a value."""
    return mine(-all_distances(embeddings).order, labels, per, size)[0]


def _scores_error(scores: np.ndarray) -> str:
    used = ~np.eye(len(scores), dtype=bool)
    i, j = np.argwhere(np.isnan(scores) | ~np.isfinite(scores) & used)[0].tolist()
    return f"scores must be finite, but [{i}, {j}] is {scores[i, j]}; check the embeddings they come from"


def _embeddings_error(params: Params, embeddings: np.ndarray) -> str:
    for layer, leaves in params.items():
        for name, leaf in leaves.items():
            if not np.isfinite(leaf).all():
                return f"params must be finite, but [{layer!r}][{name!r}] is not"
    rows = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(rows):
        return f"embeddings must be finite, but {len(rows)} rows are not: the first is {rows[0]}"
    largest = np.abs(embeddings).max()
    return f"embeddings overflow float32 when scored: the largest entry is {largest}; normalize them"


@partial(jax.jit, static_argnums=(2, 3))
def mine(
    scores: Float[Array, "b b"], labels: Int[Array, " b"], per: str, size: int | None
) -> tuple[Quadruplets, Bool[Array, ""]]:
    """The quadruplets, and whether all scores are finite. Arguments are not checked."""
    scores = jax.lax.stop_gradient(scores)
    if not len(scores):
        return _empty(per, size)
    same = labels[:, None] == labels
    image = jnp.arange(len(labels), dtype=jnp.int32)
    partner = jnp.broadcast_to(image, same.shape)
    other = image[:, None] != image
    finite = jnp.all(jnp.isfinite(scores) | ~other & ~jnp.isnan(scores))
    extremes = Extremes(
        best_partners(scores, ~same, partner),
        best_partners(-scores, same & other, partner),
        best_partners(-scores, same & (image[:, None] < image), partner),
    )
    mined = _quadruplets(extremes, labels, per, size)
    return _out_of_range_unless(finite, mined), finite


@partial(jax.jit, static_argnames=("per", "size", "dtype"))
def mine_fused(
    params: Params, embeddings: Array, labels: Array, *, per: str, size: int | None, dtype: str
) -> tuple[Quadruplets, Bool[Array, ""]]:
    """The quadruplets by PDDM score, and whether embeddings, parameters and mined scores are finite."""
    params, embeddings = jax.lax.stop_gradient((params, embeddings))
    if not len(embeddings):
        return _empty(per, size)
    extremes = hardest_partners(params, embeddings, labels, dtype=dtype)
    finite = all_finite(params, embeddings)
    for best in extremes:  # a maximum is NaN where a candidate is
        finite &= jnp.all(jnp.isfinite(best.value) | (best.partner == NO_PARTNER) & ~jnp.isnan(best.value))
    mined = _quadruplets(extremes, labels, per, size)
    return _out_of_range_unless(finite, mined), finite


def _empty(per: str, size: int | None) -> tuple[Quadruplets, Array]:
    """The slots of an empty batch."""
    none = jnp.zeros({"batch": 1, "anchor": 0, "positive": size or 0}[per], jnp.int32)
    return Quadruplets(none, none, none, none, valid=none.astype(bool)), jnp.ones((), bool)


def _quadruplets(extremes: Extremes, labels: Array, per: str, size: int | None) -> Quadruplets:
    """The quadruplets of a scope."""
    negative, positive, later = extremes
    if per == "batch":
        i = jnp.argmax(later.value, keepdims=True)
        j = later.partner[i]
    elif per == "anchor":
        i, j = jnp.arange(len(labels), dtype=jnp.int32), positive.partner
    else:
        i, j = _positive_pairs(labels, size)
    return _with_negatives(i, j, negative)


def _out_of_range_unless(finite: Array, mined: Quadruplets) -> Quadruplets:
    """The same quadruplets where all is finite; otherwise valid ones that name no image."""
    i, j, k, l = (jnp.where(finite, index, NO_PARTNER) for index in mined[:4])  # noqa: E741
    return Quadruplets(i, j, k, l, valid=mined.valid | ~finite)


def _positive_pairs(labels: Array, size: int | None) -> tuple[Array, Array]:
    """The pairs i < j of one class; in empty slots j is NO_PARTNER."""
    b = len(labels)
    if size is None:
        i, j = (jnp.asarray(index) for index in np.triu_indices(b, 1))
        return i, jnp.where(labels[i] == labels[j], j, NO_PARTNER)
    # Sorted by class, then by index, an image forms pairs with the images that follow it in its class.
    order = jnp.argsort(labels, stable=True)
    place = jnp.argsort(order)
    later = jnp.searchsorted(labels[order], labels, side="right") - 1 - place
    i = jnp.repeat(jnp.arange(b), later, total_repeat_length=size)
    nth = jnp.arange(size) - (jnp.cumsum(later) - later)[i]
    return i, jnp.where(nth < later[i], order[(place + 1)[i] + nth], NO_PARTNER)


def _with_negatives(i: Array, j: Array, negative: Best) -> Quadruplets:
    k = negative.partner[i]
    valid = (j != NO_PARTNER) & (k != NO_PARTNER)
    j = jnp.where(valid, j, 0)
    i, j, k, l = (jnp.where(valid, x, 0).astype(jnp.int32) for x in (i, j, k, negative.partner[j]))  # noqa: E741
    return Quadruplets(i, j, k, l, valid=valid)
