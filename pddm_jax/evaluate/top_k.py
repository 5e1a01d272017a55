"""The k highest scores of each query over a whole gallery, tile by tile; ties go to the lowest index."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from pddm_jax.types import AnyArray

ScoreFn = Callable[[Float[Array, "a d"], Float[Array, "b d"]], Float[Array, "a b"]]
"""Scores of all pairs of queries and gallery images, higher = more similar."""

TILE = 1024, 1024
"""Queries and gallery images that are scored together."""

CPU_TILE = 256, 512
"""The same on a CPU, whose scores are no larger than a core's second cache."""

STRIP = 2**16
"""Gallery images whose scores are held at a time."""

CPU_MAX_SCORES = 2**20
"""Scores that are sorted at a time where whole rankings are."""

Held = Float[Array, "t a groups size"]
"""Scores of the tiles of a strip, by groups of images."""

Found = tuple[Float[Array, "a k"], Int[Array, "a k"]]
"""The highest scores of each query with their index."""

RECALL = 0.95
"""The share of the k nearest that an approximate ranking of a strip finds, at least, on average."""


def top_k(
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    k: int,
    score_fn: ScoreFn,
    *,
    approx: bool = False,
    dtype: DTypeLike = jnp.float32,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k highest scores of each query, best first, and their gallery indices.

    The gallery is sharded over the devices, unless the arrays are traced by jit.

    Args:
        queries: [q, d].
        gallery: [g, d].
        k: how many, 1 to g.
        score_fn: a `jax.tree_util.Partial`, whose arrays are passed through jit.
        approx: rank by `jax.lax.approx_max_k`.
        dtype: of the scores; float64 only where JAX has 64-bit types enabled.
        devices: over which the gallery is sharded; None = those of this process.
    """
    traced = any(
        isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((queries, gallery, score_fn))
    )
    if is_deep(k, len(gallery)) and not traced and not approx:
        return _sorted_whole(queries, gallery, k, score_fn, jnp.dtype(dtype))
    mesh = Mesh(np.array(devices or jax.local_devices()), ("gallery",), axis_types=(AxisType.Auto,))
    if mesh.size == 1 or traced:
        return _top_k(queries, gallery, k, score_fn, approx, jnp.dtype(dtype))
    whole, shards = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("gallery")))
    queries, score_fn = jax.device_put((queries, score_fn), whole)
    padded = jax.device_put(jnp.pad(gallery, ((0, -len(gallery) % mesh.size), (0, 0))), shards)
    return _top_k_sharded(queries, padded, len(gallery), k, score_fn, mesh, approx, jnp.dtype(dtype))


def is_deep(k: int, images: int) -> bool:
    """Whether a CPU sorts all scores of a query sooner than it finds the k highest among them."""
    return jax.default_backend() == "cpu" and images > 1024 and 8 * k > images


def _sorted_whole(
    queries: Float[Array, "q d"], gallery: Float[Array, "g d"], k: int, score_fn: ScoreFn, dtype: np.dtype
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k nearest by a sort of all scores, a block of queries at a time."""
    rows = max(1, CPU_MAX_SCORES // len(gallery))
    found = []
    for start in range(0, max(len(queries), 1), rows):
        block = queries[start : start + rows]
        short = rows - len(block) if start else 0  # the last block is scored by the same program
        scores = np.asarray(_score(dtype, score_fn, jnp.pad(block, ((0, short), (0, 0))), gallery))[
            : len(block)
        ]
        found.append(
            ordered(scores, np.broadcast_to(np.arange(len(gallery), dtype=np.int32), scores.shape), k)
        )
    scores, index = (np.concatenate(x) for x in zip(*found, strict=True))
    return jnp.asarray(scores), jnp.asarray(index)


@partial(jax.jit, static_argnums=0)
def _score(dtype: np.dtype, score_fn: ScoreFn, queries: Array, gallery: Array) -> Array:
    return score_fn(queries, gallery).astype(dtype)


def ordered(
    scores: Float[AnyArray, "q c"], index: Int[AnyArray, "q c"], k: int
) -> tuple[Float[AnyArray, "q k"], Int[AnyArray, "q k"]]:
    """The k highest scores of each row, best first, NaN before all, and their index; of equals the lowest.

    On a CPU NumPy sorts rows, many times as fast as XLA, but not stably: rows with equals are sorted again.
    """
    if isinstance(scores, jax.Array) and next(iter(scores.devices())).platform != "cpu":
        negative, sorted_index = jax.lax.sort((-scores, jnp.asarray(index)), num_keys=2)
        return -negative[:, :k], sorted_index[:, :k]
    best: np.ndarray = np.asarray(scores)
    falling, places = -best, np.asarray(index)
    falling[np.isnan(falling)] = -np.inf
    order = np.argsort(falling, axis=1)
    ranked = np.take_along_axis(falling, order, axis=1)
    tied = np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(axis=1))
    order[tied] = np.lexsort((places[tied], falling[tied]), axis=1)
    order = order[:, :k]
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(places, order, axis=1)


@partial(jax.jit, static_argnums=(2, 4, 5))
def _top_k(
    queries: Array, gallery: Array, k: int, score_fn: ScoreFn, approx: bool, dtype: np.dtype
) -> tuple[Array, Array]:
    return _finish(*_search(queries, gallery, 0, len(gallery), k, score_fn, approx, dtype))


@partial(jax.jit, static_argnums=(2, 3, 5, 6, 7))
def _top_k_sharded(
    queries: Array,
    gallery: Array,
    count: int,
    k: int,
    score_fn: ScoreFn,
    mesh: Mesh,
    approx: bool,
    dtype: np.dtype,
) -> tuple[Array, Array]:
    """Each device searches its shard of the gallery; the best of all are the best of their best."""

    def search(queries: Array, shard: Array, score_fn: ScoreFn) -> tuple[Array, Array]:
        first = jax.lax.axis_index("gallery").astype(jnp.int32) * len(shard)
        found = _search(queries, shard, first, count, k, score_fn, approx, dtype)
        scores, index = jax.lax.all_gather(found, "gallery", axis=1, tiled=True)
        return _best(scores, index, k)

    everywhere = PartitionSpec()
    specs = everywhere, PartitionSpec("gallery"), everywhere
    search = jax.shard_map(search, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)
    return _finish(*search(queries, gallery, score_fn))


def _lowest(dtype: DTypeLike) -> float:
    """Stands for a score of -inf while -inf itself marks what is no image at all."""
    return float(jnp.finfo(dtype).min)


def _finish(scores: Array, index: Array) -> tuple[Array, Array]:
    return jnp.where(scores == _lowest(scores.dtype), -jnp.inf, scores), index


def _best(scores: Float[Array, "a n"], index: Int[Array, "a n"], k: int) -> tuple[Array, Array]:
    """The k highest scores of each row with their index; of equals the first."""
    scores, place = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(index, place, axis=1)


def blocks_of(x: Shaped[Array, "n d"], most: int) -> Shaped[Array, "blocks size d"]:
    """Equal blocks of at most `most` rows, the last one filled up with zeros."""
    count = max(-(-len(x) // most), 1)
    size = -(-len(x) // count)
    return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, x.shape[1])


def _search(
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    first: int | Int[Array, ""],
    count: int,
    k: int,
    score_fn: ScoreFn,
    approx: bool,
    dtype: np.dtype,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k nearest in a shard of the gallery: `first` images lie before it, `count` are in the whole.

    For each block of queries the gallery is gone over strip by strip: the scores of a strip's tiles are
    made, the maxima of groups of its images are ranked, then the images of the k best groups, together with
    the best so far. The k best images lie there: before any other group come k groups, each with an image
    that comes before all of its own. Ranking all scores would take longer than making them.
    """
    most, whole = CPU_TILE if jax.default_backend() == "cpu" else TILE
    blocks = blocks_of(queries, most)
    rows, columns = blocks.shape[1], min(len(gallery), whole)
    strips = -(-len(gallery) // STRIP)
    tiles = -(-len(gallery) // (columns * strips))
    size = _group(tiles * columns, k, whole) if columns == whole and not approx else 1
    in_tile = columns // size

    rank = partial(jax.lax.approx_max_k, recall_target=RECALL) if approx else jax.lax.top_k

    def start(tile: Int[Array, "..."]) -> Int[Array, "..."]:
        return jnp.minimum(tile * columns, len(gallery) - columns)  # no tile reaches beyond the end

    def search(held: Held, block: Float[Array, "a d"]) -> tuple[Held, tuple[Array, Array]]:
        def score(held: Held, tile: Int[Array, ""]) -> tuple[Held, Float[Array, "a groups"]]:
            images = jax.lax.dynamic_slice_in_dim(gallery, start(tile), columns)
            index = start(tile) + jnp.arange(columns, dtype=jnp.int32)
            scores = jnp.maximum(score_fn(block, images).astype(dtype), _lowest(dtype))
            scores = jnp.where(scores == 0, 0, scores)  # -0.0 would rank below 0.0
            fresh = (index >= tile * columns) & (first + index < count)
            scores = jnp.where(fresh, scores, -jnp.inf).reshape(rows, in_tile, size)
            held = jax.lax.dynamic_update_index_in_dim(held, scores, tile % tiles, 0)
            return held, jnp.max(scores, axis=2)

        def merge(carry: tuple[Held, Found], numbers: Int[Array, " t"]) -> tuple[tuple[Held, Found], None]:
            held, best = carry
            held, maxima = jax.lax.scan(score, held, numbers)
            maxima = jnp.moveaxis(maxima, 0, 1).reshape(rows, tiles * in_tile)
            chosen = min(k, tiles * in_tile)
            groups = rank(maxima, chosen)[1]
            tile, group = jnp.divmod(jnp.sort(groups, axis=1), in_tile)
            scores = held[tile, jnp.arange(rows)[:, None], group]
            members = jnp.arange(size, dtype=jnp.int32)
            index = (first + start(numbers[tile]) + group * size)[:, :, None] + members
            # Of equals the first is taken: the best so far, then those of lower index.
            scores = jnp.concatenate([best[0], scores.reshape(rows, chosen * size)], axis=1)
            index = jnp.concatenate([best[1], index.reshape(rows, chosen * size)], axis=1)
            return (held, _best(scores, index, k)), None

        nothing = jnp.full((rows, k), -jnp.inf, dtype), jnp.full((rows, k), count, jnp.int32)
        numbers = jnp.arange(strips * tiles, dtype=jnp.int32).reshape(strips, tiles)
        return jax.lax.scan(merge, (held, nothing), numbers)[0]

    # Blocks take turns in one place: to make one for each costs a CPU another pass over the scores.
    place = jnp.zeros((tiles, rows, in_tile, size), dtype)
    _, (scores, index) = jax.lax.scan(search, place, blocks)
    return scores.reshape(-1, k)[: len(queries)], index.reshape(-1, k)[: len(queries)]


def _group(images: int, k: int, most: int) -> int:
    """The size of a group for which there are about as many maxima as images in k groups."""
    return min(2 ** round(math.log2(max(images / k, 1)) / 2), most)
