"""Exact nearest neighbours by any score; those by Euclidean distance are in the order of float64.

Distances are ranked in passes. The first computes |q|^2 + |g|^2 - 2 q.g in float32, about one of the
gallery's images, and yields a few more candidates than are asked for. Their distances are then computed
from the differences in float64. A bound on the rounding error of the first pass tells for which queries no
other image can come before the candidates. The remaining queries go through the next pass: the same in
float64, and finally all differences in float64.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pddm_jax.checks import as_matrix, as_rows
from pddm_jax.pairwise import squared_distances
from pddm_jax.top_k import ScoreFn, blocks_of, is_deep, ordered, top_k
from pddm_jax.types import AnyArray

SLACK = 4
"""Candidates of a pass beyond the k that are asked for."""

ROOM = 2**24
"""Coordinates of candidates whose distances are computed together."""

CPU_ROOM = 2**18
"""The same on a CPU: few enough for its caches."""

Scores = Float[Array, "q k"]
Indices = Int[Array, "q k"]


def nearest(
    queries: Float[AnyArray, "q d"],
    gallery: Float[AnyArray, "g d"],
    k: int,
    score_fn: ScoreFn | None = None,
    *,
    approx: bool = False,
) -> tuple[Scores, Indices]:
    """The exact k nearest gallery images of each query, best first; ties go to the lowest index.

    By default the order is that of the squared Euclidean distances in float64, whatever the scale and the
    position of the embeddings. With a `score_fn` no vector space is assumed: every pair is scored, tile by
    tile. The gallery is sharded over the devices of this process: on a CPU a device for each core
    (`JAX_NUM_CPU_DEVICES`) is the fastest.

    Args:
        queries: [q, d] embeddings, finite; float64 and integers from the host are not rounded to float32.
        gallery: [g, d] embeddings, finite.
        k: how many, 1 to g.
        score_fn: scores [a, b] of embeddings [a, d] and [b, d], float32, higher = more similar. The default
            is the negative squared Euclidean distance. `jax.tree_util.Partial(score_matrix, params)`
            ranks by PDDM score, and is compiled once for all params; a new lambda is compiled each time.
        approx: rank by `jax.lax.approx_max_k`, which on a TPU is faster and finds each of the k with a
            probability of RECALL at least; elsewhere it is as exact as without, and slower.

    Returns:
        Scores in float32 (a distance beyond its range is -inf, or 0) and gallery indices, each [q, k].

    Raises:
        ValueError: queries or gallery are no matrices of one width or are not finite, k is no integer in
            1..g, or score_fn returns another shape than [a, b] or a NaN. With a score_fn the embeddings may
            be infinite.

    Under `jax.jit` all pairs are scored by their differences in float32, which is slower, and nothing is
    raised: a NaN in the input is a NaN in the scores.
    """
    traced = isinstance(queries, jax.core.Tracer) or isinstance(gallery, jax.core.Tracer)
    same = queries is gallery
    check = as_matrix if traced or score_fn is not None else as_rows
    queries = check("queries", queries)
    gallery = queries if same else check("gallery", gallery, queries.shape[1])
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(gallery):
        raise ValueError(f"k must be an integer in 1..{len(gallery)}, the size of the gallery, got {k!r}")
    if check is as_rows and len(queries):
        return _by_distance(queries, gallery, int(k), approx)
    return _by_score(jnp.asarray(queries), jnp.asarray(gallery), int(k), score_fn or _by_difference, approx)


def _by_score(
    queries: Float[Array, "q d"], gallery: Float[Array, "g d"], k: int, score_fn: ScoreFn, approx: bool
) -> tuple[Scores, Indices]:
    if not isinstance(score_fn, jax.tree_util.Partial):  # one as another's function would hide its arrays
        score_fn = jax.tree_util.Partial(score_fn)
    shape = jax.eval_shape(score_fn, queries[:1], gallery).shape
    if len(queries) and shape != (1, len(gallery)):
        raise ValueError(f"score_fn must return shape [a, b], here [1, {len(gallery)}], got {[*shape]}")
    scores, index = top_k(queries, gallery, k, jax.tree_util.Partial(_nan_first, score_fn), approx=approx)
    if not isinstance(scores, jax.core.Tracer) and np.isnan(np.asarray(scores)).any():
        bad = np.flatnonzero(np.isnan(np.asarray(scores)).any(axis=1))
        raise ValueError(
            f"score_fn gives NaN, which has no rank, for {len(bad)} queries, the first is {bad[0]}: are "
            "queries, gallery and parameters finite?"
        )
    return scores, index


def _nan_first(score_fn: ScoreFn, queries: Array, gallery: Array) -> Float[Array, "a b"]:
    """The scores, a NaN without its sign: so it ranks above all numbers, and is seen."""
    scores = score_fn(queries, gallery)
    return jnp.where(jnp.isnan(scores), jnp.nan, scores)


def _by_expansion(queries: Float[Array, "a d"], gallery: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """-|q - g|^2 of all pairs, through one matrix product: 2 q.g - |q|^2 - |g|^2."""
    dots = jnp.matmul(queries, gallery.T, precision="highest")
    squared_norms = (jnp.sum(jnp.square(x), axis=-1) for x in (queries, gallery))
    return jnp.minimum(2 * dots - jnp.add.outer(*squared_norms), 0)


def _by_difference(queries: Float[Array, "a d"], gallery: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """-|q - g|^2 of all pairs, from the differences."""
    return 0 - jnp.sum(jnp.square(queries[:, None] - gallery), axis=-1)


class _Pass(NamedTuple):
    """A way to score all pairs; if it is centered about one image, its scores only find candidates."""

    score_fn: Callable[[Array, Array], Array]
    dtype: DTypeLike
    centered: bool

    def relative_error(self, width: int) -> float:
        """The c of |score + D| <= c (|q - o|^2 + |g - o|^2), with o the origin.

        Sums of d products are off by d units of rounding at most, for the product and for both norms;
        the rounding of the centered coordinates and of the last sums adds less than 16.
        """
        return (2 * width + 16) * float(jnp.finfo(self.dtype).eps) / 2


PASSES = (
    _Pass(_by_expansion, np.float32, centered=True),
    _Pass(_by_expansion, np.float64, centered=True),
    _Pass(_by_difference, np.float64, centered=False),
)


def _by_distance(queries: AnyArray, gallery: AnyArray, k: int, approx: bool) -> tuple[Scores, Indices]:
    """The k nearest by Euclidean distance, pass after pass for the queries that are not certain yet."""
    exponent = _exponent(queries, gallery)
    if exponent:
        queries, gallery = (np.ldexp(np.asarray(x), -exponent) for x in (queries, gallery))
    passes = PASSES[-1:] if is_deep(k, len(gallery)) and not approx else PASSES
    *found, certain = _search(passes[0], queries, gallery, k, exponent, approx)
    left = np.flatnonzero(~certain)
    if approx or not len(left):
        return found[0], found[1]
    scores, index = (np.array(x) for x in found)
    for step in passes[1:]:
        *found, certain = _search(step, queries[_padded(left)], gallery, k, exponent)
        scores[left], index[left] = (x[: len(left)] for x in found)
        left = left[~certain[: len(left)]]
        if not len(left):
            break
    return jnp.asarray(scores), jnp.asarray(index)


def _largest(*arrays: AnyArray) -> float:
    return max((max(float(x.max()), -float(x.min())) for x in arrays if x.size), default=0.0)


def _exponent(*arrays: AnyArray) -> int:
    """The power of 2 by which embeddings are divided; 0 unless their squares could leave a type's range."""
    largest = _largest(*arrays)
    if largest < 2.0**-30:  # or it is a subnormal number, which XLA may take for 0
        largest = _largest(*map(np.asarray, arrays))
    exponent = int(np.frexp(largest)[1])
    return exponent if abs(exponent) > 30 else 0


def _padded(rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Rows filled up to 256 times a power of two, so that few shapes are compiled."""
    size = 256
    while size < len(rows):
        size *= 2
    return np.append(rows, np.repeat(rows[:1], size - len(rows)))


@jax.jit
def _central(gallery: Float[Array, "g d"]) -> Float[Array, " d"]:
    """The image that lies nearest to the mean of all: seen from it, coordinates are small.

    It is an image, so nearby numbers, and integers, are subtracted from it exactly.
    """
    return gallery[jnp.argmin(squared_distances(gallery, jnp.mean(gallery, axis=0)))]


def _is_exact(dtype: DTypeLike, *arrays: Float[Array, "n d"]) -> bool:
    """Whether sums of products of these coordinates are exact: all are small multiples of one power of 2.

    So it is for codes of few bits and for one-hot vectors, among which many distances are equal.
    """
    bits = jnp.finfo(dtype).nmant - 2 - np.log2(arrays[0].shape[1])
    largest = _largest(*arrays)
    unit = 2.0 ** np.ceil(np.log2(largest) - bits / 2) if largest else 1.0
    return unit > 2.0**-60 and all(not (np.asarray(x) % unit).any() for x in arrays)


def _search(
    step: _Pass, queries: AnyArray, gallery: AnyArray, k: int, exponent: int, approx: bool = False
) -> tuple[Scores, Indices, Bool[np.ndarray, " q"]]:
    """The k nearest among the candidates of one pass, and for which queries no other image is nearer."""
    score_fn = jax.tree_util.Partial(step.score_fn)
    with jax.enable_x64(True):
        device = jax.local_devices()[0]
        images = jax.device_put(gallery, device)
        given = images if queries is gallery else jax.device_put(queries, device)
        if not step.centered:
            scores, index = top_k(
                given.astype(step.dtype), images.astype(step.dtype), k, score_fn, dtype=step.dtype
            )
            return _in_float32(scores, exponent), index, np.ones(len(index), bool)
        origin, candidates = _central(images), min(k + SLACK, len(gallery))
        seen = [_about(origin, x, step.dtype) for x in ([images] if given is images else [given, images])]
        found = top_k(seen[0], seen[-1], candidates, score_fn, approx=approx, dtype=step.dtype)
        approximate, index = jax.device_put(found, device)
        exact, bound = _rescored(given, images, origin, approximate, index, step)
        best, order = ordered(np.asarray(exact), np.asarray(index), k)
        certain = -best[:, -1] < np.asarray(bound)
        if not certain.all() and (candidates == len(gallery) or _is_exact(step.dtype, *seen)):
            certain = np.ones_like(certain)
        return _in_float32(best, exponent), jnp.asarray(order), certain


def _in_float32(scores: AnyArray, exponent: int) -> Scores:
    """Scores of embeddings that were divided by 2^exponent."""
    return jnp.ldexp(scores, 2 * exponent).astype(jnp.float32)


@partial(jax.jit, static_argnums=2)
def _about(origin: Float[Array, " d"], x: Float[Array, "n d"], dtype: DTypeLike) -> Float[Array, "n d"]:
    wide = jnp.promote_types(x.dtype, dtype)
    return (x.astype(wide) - origin.astype(wide)).astype(dtype)


@partial(jax.jit, static_argnums=5)
def _rescored(
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    origin: Float[Array, " d"],
    approximate: Float[Array, "q c"],
    candidates: Int[Array, "q c"],
    step: _Pass,
) -> tuple[Float[Array, "q c"], Float[Array, " q"]]:
    """The negative squared distances of the candidates, and a distance that no other image falls below.

    The approximate distance of such an image is at least L, that of the last candidate. As
    |g - o|^2 <= 2 |q - o|^2 + 2 D, its distance D is at least (L - 3 c |q - o|^2 - t) / (1 + 2 c), with t
    what may underflow.
    """
    error = step.relative_error(queries.shape[1])
    underflow = 8 * queries.shape[1] * float(jnp.finfo(step.dtype).tiny)

    def block(given: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x, last, index = given
        x = x.astype(jnp.float64)
        scores = 0 - jnp.sum(jnp.square(x[:, None] - gallery[index].astype(jnp.float64)), axis=-1)
        from_origin = jnp.sum(jnp.square(x - origin), axis=-1)
        return scores, (-last[:, 0] - 3 * error * from_origin - underflow) / (1 + 2 * error)

    room = CPU_ROOM if jax.default_backend() == "cpu" else ROOM
    most = max(1, room // (candidates.shape[1] * max(1, queries.shape[1])))
    given = (queries, approximate[:, -1:].astype(jnp.float64), candidates)
    scores, bound = jax.lax.map(block, tuple(blocks_of(part, most) for part in given))
    return scores.reshape(-1, candidates.shape[1])[: len(queries)], bound.reshape(-1)[: len(queries)]
