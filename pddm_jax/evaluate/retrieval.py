"""Exact nearest neighbors: by Euclidean distance, or by any score of a pair."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pddm_jax.checks import as_matrix, as_rows
from pddm_jax.evaluate.euclidean import Indices, Scores, by_difference, nearest_by_distance
from pddm_jax.evaluate.top_k import Ranking, ScoreFn, top_k
from pddm_jax.types import AnyArray


def nearest(
    queries: Float[AnyArray, "q d"],
    gallery: Float[AnyArray, "g d"],
    k: int,
    score_fn: ScoreFn | None = None,
    *,
    approx: bool = False,
) -> tuple[Scores, Indices]:
    """The exact k nearest gallery images of each query, best first; ties go to the lowest index.

    By default the order is that of the squared Euclidean distances in float64, for any scale and position
    of the embeddings. With a `score_fn` every pair is scored, tile by tile, and no vector space is assumed.
    The gallery is sharded over the devices of this process; on a CPU, one device per core
    (`JAX_NUM_CPU_DEVICES`) is fastest.

    Args:
        queries: [q, d] embeddings, finite; float64 and integers are not rounded to float32.
        gallery: [g, d] embeddings, finite.
        k: number of neighbors, an integer in 1..g.
        score_fn: scores [a, b] of embeddings [a, d] and [b, d], float32, higher = more similar. The default
            is the negative squared Euclidean distance. `jax.tree_util.Partial(score_matrix, params)`
            ranks by PDDM score and is compiled once for all params; a new lambda is compiled each time.
        approx: rank by `jax.lax.approx_max_k`, which on a TPU is faster and finds each of the k with a
            probability of at least `top_k.RECALL`; elsewhere the ranking is exact.

    Returns:
        Scores in float32 (-inf or 0 beyond its range) and gallery indices, each [q, k].

    Raises:
        ValueError: queries or gallery are not matrices of one width or are not finite; k is not an integer
            in 1..g; score_fn returns no array of shape [a, b], or a NaN. With a score_fn the embeddings may
            be infinite.

    Under `jax.jit` all pairs are scored by their differences in float32, which is slower, and nothing is
    raised: a NaN in the input is a NaN in the scores.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in (queries, gallery, jnp.add(0, 0)))  # or in a jit
    same = queries is gallery
    check = as_matrix if traced or score_fn is not None else as_rows
    queries = check("queries", queries)
    gallery = queries if same else check("gallery", gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries and gallery must be of one width, got {queries.shape} and {gallery.shape}"
        )
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(gallery):
        raise ValueError(f"k must be an integer in 1..{len(gallery)}, the size of the gallery, got {k!r}")
    if check is as_rows and len(queries):
        return nearest_by_distance(queries, gallery, int(k), approx)
    with np.errstate(over="ignore"):  # without queries, whatever the gallery holds
        queries, gallery = jnp.asarray(queries), jnp.asarray(gallery)
    score_fn = as_score_fn(score_fn or jax.checkpoint(by_difference), queries, gallery)
    highest = jax.tree_util.Partial(_nan_first, score_fn)
    scores, index = top_k(queries, gallery, highest, Ranking(int(k), approx))
    if not isinstance(scores, jax.core.Tracer):
        refuse_nan(scores)
    return scores, index


def as_score_fn(
    score_fn: object, queries: Float[Array, "q d"], gallery: Float[Array, "g d"]
) -> jax.tree_util.Partial:
    """A checked score function, as a pytree; it is traced for one query and the gallery, not computed.

    Raises:
        ValueError: it is not callable, does not return an array, or returns another shape than [a, b].
    """
    if not callable(score_fn):
        raise ValueError(
            f"score_fn must be a function of queries [a, d] and gallery [b, d], got {score_fn!r}"
        )
    if not isinstance(score_fn, jax.tree_util.Partial):  # a Partial around a Partial would hide its arrays
        score_fn = jax.tree_util.Partial(score_fn)
    expected = (2 if len(gallery) == 1 else 1), len(gallery)  # two sizes, so that [b, a] is another shape
    one = jax.ShapeDtypeStruct((expected[0], queries.shape[1]), queries.dtype)
    try:
        jax.eval_shape(jax.tree_util.Partial(_checked, score_fn, expected), one, gallery)
    except _WrongScores as error:  # raised anew, without the notes that JAX adds where it traces
        raise ValueError(*error.args) from None
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "score_fn must compute with jax.numpy, so that jit can trace it, but it converts its arguments "
            "to NumPy arrays"
        ) from error
    return score_fn


class _WrongScores(ValueError):
    """Scores that are not an array, or of another shape than expected."""


def _checked(
    score_fn: ScoreFn, expected: tuple[int, int], queries: Array, gallery: Array
) -> Float[AnyArray, "a b"]:
    """The scores; `_WrongScores` if they are not an array of the expected shape."""
    scores = score_fn(queries, gallery)
    wanted = (
        f"score_fn must return an array of shape {[*expected]} for {expected[0]} queries and {expected[1]} "
        "gallery embeddings"
    )
    if not isinstance(scores, jax.Array | np.ndarray):
        raise _WrongScores(f"{wanted}, got {type(scores).__name__}")
    if scores.shape != expected:
        raise _WrongScores(f"{wanted}, got {[*scores.shape]}")
    return scores


def refuse_nan(scores: Float[AnyArray, "q k"]) -> None:
    """Raise a ValueError where a query has a score that is NaN."""
    bad = np.flatnonzero(np.isnan(np.asarray(scores)).any(axis=1))
    if len(bad):
        raise ValueError(
            f"score_fn gives NaN, which has no rank, for {len(bad)} queries, the first is {bad[0]}: are "
            "queries, gallery and parameters finite?"
        )


def _nan_first(score_fn: ScoreFn, queries: Array, gallery: Array) -> Float[Array, "a b"]:
    """The scores, each NaN without its sign: it ranks above all numbers, and so is detected."""
    scores = score_fn(queries, gallery)
    return jnp.where(jnp.isnan(scores), jnp.nan, scores)
