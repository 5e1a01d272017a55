"""Exact nearest neighbours by any score; Euclidean neighbours are ordered as in float64.

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
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pddm_jax.checks import as_matrix, as_rows
from pddm_jax.evaluate.float_range import in_range, is_exact, largest_of
from pddm_jax.evaluate.top_k import ScoreFn, blocks_of, is_deep, ordered, top_k
from pddm_jax.numerics import squared_distances
from pddm_jax.types import AnyArray

MAX_COORDINATES = 2**24
"""Coordinates of candidates whose distances are computed together."""

CPU_MAX_COORDINATES = 2**18
"""The same on a CPU: few enough for its caches."""

SHARDED = PartitionSpec("queries")

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
        queries: [q, d] embeddings, finite; float64 and integers are not rounded to float32.
        gallery: [g, d] embeddings, finite.
        k: how many, 1 to g.
        score_fn: scores [a, b] of embeddings [a, d] and [b, d], float32, higher = more similar. The default
            is the negative squared Euclidean distance. `jax.tree_util.Partial(score_matrix, params)`
            ranks by PDDM score, and is compiled once for all params; a new lambda is compiled each time.
        approx: rank by `jax.lax.approx_max_k`, which on a TPU is faster and finds each of the k with a
            probability of at least `top_k.RECALL`; elsewhere the ranking is exact.

    Returns:
        Scores in float32 (-inf or 0 beyond its range) and gallery indices, each [q, k].

    Raises:
        ValueError: queries or gallery are no matrices of one width or are not finite, k is no integer in
            1..g, or score_fn returns another shape than [a, b] or a NaN. With a score_fn the embeddings may
            be infinite.

    Under `jax.jit` all pairs are scored by their differences in float32, which is slower, and nothing is
    raised: a NaN in the input is a NaN in the scores.
    """
    traced = any(isinstance(x, jax.core.Tracer) for x in (queries, gallery, jnp.add(0, 0)))  # or in a jit
    same = queries is gallery
    check = as_matrix if traced or score_fn is not None else as_rows
    queries = check("queries", queries)
    gallery = queries if same else check("gallery", gallery, queries.shape[1])
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(gallery):
        raise ValueError(f"k must be an integer in 1..{len(gallery)}, the size of the gallery, got {k!r}")
    if check is as_rows and len(queries):
        return _by_distance(queries, gallery, int(k), approx)
    return _by_score(
        jnp.asarray(queries),
        jnp.asarray(gallery),
        int(k),
        score_fn or jax.checkpoint(_by_difference),
        approx,
    )


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
    return 0 - jnp.sum(jnp.square(queries[:, None] - gallery[None]), axis=-1)


class _Pass(NamedTuple):
    """A way to score all pairs; if it is centered about one image, its scores only find candidates.

    Attributes:
        score_fn: the scores of all pairs.
        dtype: what they are computed in.
        centered: whether an image of the gallery is the origin.
        slack: candidates beyond k, as a share of k and a number.
    """

    score_fn: Callable[[Array, Array], Array]
    dtype: DTypeLike
    centered: bool = True
    slack: tuple[float, int] = (0.0, 0)

    def relative_error(self, width: int) -> float:
        """The c of |score + D| <= c (|q - o|^2 + |g - o|^2), with o the origin.

        Sums of d products are off by d units of rounding at most, for the product and for both norms;
        the rounding of the centered coordinates and of the last sums adds less than 16. A TPU splits
        float32 into three bfloat16, whose products it sums: four times as much is more than it loses.
        """
        rounding = float(jnp.finfo(self.dtype).eps) / 2
        return (2 * width + 16) * rounding * (4 if jax.default_backend() == "tpu" else 1)

    def candidates(self, k: int, images: int) -> int:
        """How many images are found for k."""
        share, number = self.slack
        return min(k + int(share * k) + number, images)


PASSES = (
    _Pass(_by_expansion, np.float32, slack=(1 / 16, 4)),
    # What is left has many images at nearly one distance, such as copies.
    _Pass(_by_expansion, np.float64, slack=(3, 64)),
    _Pass(_by_difference, np.float64, centered=False),
)


def _by_distance(queries: AnyArray, gallery: AnyArray, k: int, approx: bool) -> tuple[Scores, Indices]:
    """The k nearest by Euclidean distance, pass after pass for the queries that are not certain yet."""
    approx &= jax.default_backend() == "tpu"  # elsewhere it ranks exactly
    queries, gallery, exponent = in_range(queries, gallery)
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
    return gallery[jnp.argmin(squared_distances(gallery, jnp.mean(gallery, axis=0)[None]))]


def _wide_device() -> jax.Device:
    """A device that computes in float64, which TPUs do not."""
    return jax.devices("cpu")[0] if jax.default_backend() == "tpu" else jax.local_devices()[0]


def _search(
    step: _Pass, queries: AnyArray, gallery: AnyArray, k: int, exponent: int, approx: bool = False
) -> tuple[Scores, Indices, Bool[np.ndarray, " q"]]:
    """The k nearest among the candidates of one pass, and for which queries no other image is nearer."""
    score_fn, device = jax.tree_util.Partial(step.score_fn), _wide_device()
    wide = step.dtype == np.float64
    devices = [device] if wide and device not in jax.local_devices() else jax.local_devices()
    find = partial(top_k, score_fn=score_fn, dtype=step.dtype, devices=devices)
    with jax.enable_x64(True):
        images = jax.device_put(gallery, device)
        given = images if queries is gallery else jax.device_put(queries, device)
        if not step.centered:
            scores, index = find(given.astype(step.dtype), images.astype(step.dtype), k)
            return _in_float32(scores, exponent), index, np.ones(len(index), bool)
        origin = _central(images)
        seen = [_about(origin, x, step.dtype) for x in ([images] if given is images else [given, images])]
        some = step.candidates(k, len(gallery))
        approximate, index = find(seen[0], seen[-1], some, approx=approx)
        exact, bound = _rescored_by_all(step, given, images, origin, approximate, index)
        best, order = ordered(exact, index, k)
        certain = np.asarray(-best[:, -1] < bound)
        if not certain.all() and (
            some == len(gallery) or is_exact(step.dtype, largest_of(*seen), queries, gallery)
        ):
            certain = np.ones_like(certain)
        return _in_float32(best, exponent), jnp.asarray(order), certain


def _in_float32(scores: AnyArray, exponent: int) -> Scores:
    """Scores of embeddings that were divided by 2^exponent."""
    with np.errstate(over="ignore", under="ignore"):
        if exponent:
            scores = np.ldexp(np.asarray(scores), 2 * exponent)
        return jnp.asarray(scores.astype(np.float32))


@partial(jax.jit, static_argnums=2)
def _about(origin: Float[Array, " d"], x: Float[Array, "n d"], dtype: DTypeLike) -> Float[Array, "n d"]:
    wide = jnp.float64 if jnp.float64 in (x.dtype, dtype) else jnp.float32
    return (x.astype(wide) - origin.astype(wide)[None]).astype(dtype)


def _rescored_by_all(
    step: _Pass, queries: Array, gallery: Array, origin: Array, approximate: Array, candidates: Array
) -> tuple[Float[Array, "q c"], Float[Array, " q"]]:
    """`_rescored`, the queries sharded over the devices of this process if they compute in float64."""
    devices = [_wide_device()] if _wide_device() not in jax.local_devices() else jax.local_devices()
    mesh = Mesh(np.array(devices), ("queries",), axis_types=(AxisType.Auto,))
    count, extra = len(queries), -len(queries) % mesh.size
    by_query = [jnp.pad(x, ((0, extra), (0, 0))) for x in (queries, approximate, candidates)]
    queries, *found = jax.device_put(by_query, NamedSharding(mesh, SHARDED))
    whole = jax.device_put((gallery, origin), NamedSharding(mesh, PartitionSpec()))
    scores, bound = _rescored_sharded(step, mesh, queries, *whole, *found)
    return scores[:count], bound[:count]


@partial(jax.jit, static_argnums=(0, 1))
def _rescored_sharded(step: _Pass, mesh: Mesh, *given: Array) -> tuple[Array, Array]:
    specs = SHARDED, PartitionSpec(), PartitionSpec(), SHARDED, SHARDED
    rescored = partial(_rescored, step)
    return jax.shard_map(rescored, mesh=mesh, in_specs=specs, out_specs=SHARDED, check_vma=False)(*given)


def _rescored(
    step: _Pass,
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    origin: Float[Array, " d"],
    approximate: Float[Array, "q c"],
    candidates: Int[Array, "q c"],
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
        near = jnp.take(gallery, index, axis=0, mode="clip").astype(jnp.float64)
        scores = 0 - jnp.sum(jnp.square(x[:, None] - near), axis=-1)
        from_origin = jnp.sum(jnp.square(x - origin.astype(jnp.float64)[None]), axis=-1)
        return scores, (-last[:, 0] - 3 * error * from_origin - underflow) / (1 + 2 * error)

    room = CPU_MAX_COORDINATES if _wide_device().platform == "cpu" else MAX_COORDINATES
    most = max(1, room // (candidates.shape[1] * max(1, queries.shape[1])))
    given = (queries, approximate[:, -1:].astype(jnp.float64), candidates)
    scores, bound = jax.lax.map(block, tuple(blocks_of(part, most) for part in given))
    return scores.reshape(-1, candidates.shape[1])[: len(queries)], bound.reshape(-1)[: len(queries)]
