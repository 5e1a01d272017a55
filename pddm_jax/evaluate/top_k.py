"""Exact top-k search: the k highest scores of each query over a gallery, tile by tile.

Ties go to the lowest index.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
"""The same on a CPU: the scores of a tile fit in the second-level cache of a core."""

STRIP = 2**16
"""Gallery images whose scores are held at a time."""

CPU_MAX_SCORES = 2**20
"""Scores that are sorted at a time where whole rankings are sorted."""

StripScores = Float[Array, "t a groups size"]
"""Scores of the tiles of a strip, by groups of images."""

Found = tuple[Float[Array, "a k"], Int[Array, "a k"]]
"""The highest scores of each query, and their gallery indices."""

RECALL = 0.95
"""The least share of the k nearest that an approximate ranking of a strip finds on average."""


@dataclass(frozen=True)
class Ranking:
    """What a search finds: the k highest scores, whether by `jax.lax.approx_max_k`, and of which type."""

    k: int
    approx: bool = False
    dtype: DTypeLike = jnp.float32


def top_k(
    queries: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    score_fn: ScoreFn,
    ranking: Ranking,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k highest scores of each query, best first, and their gallery indices.

    The gallery is sharded over the devices, unless the arrays are traced by jit.

    Args:
        queries: [q, d].
        gallery: [g, d].
        score_fn: a `jax.tree_util.Partial`; its arrays are passed through jit.
        ranking: with k in 1..g; float64 only where JAX has 64-bit types enabled.
        devices: over which the gallery is sharded; None = those of this process.
    """
    ranking = replace(ranking, dtype=jnp.dtype(ranking.dtype))
    traced = any(
        isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((queries, gallery, score_fn))
    )
    if is_deep(ranking.k, len(gallery)) and not traced and not ranking.approx:
        return _sorted_whole(queries, gallery, score_fn, ranking)
    mesh = Mesh(np.array(devices or jax.local_devices()), ("gallery",), axis_types=(AxisType.Auto,))
    if mesh.size == 1 or traced:
        return _top_k(queries, gallery, score_fn, ranking)
    whole, shards = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("gallery")))
    queries, score_fn = jax.device_put((queries, score_fn), whole)
    padded = jax.device_put(jnp.pad(gallery, ((0, -len(gallery) % mesh.size), (0, 0))), shards)
    return _top_k_sharded(queries, padded, score_fn, ranking=ranking, count=len(gallery), mesh=mesh)


def is_deep(k: int, images: int) -> bool:
    """Whether a CPU is faster to sort all scores of a query than to find the k highest among them."""
    return jax.default_backend() == "cpu" and images > 1024 and 8 * k > images


def _sorted_whole(
    queries: Float[Array, "q d"], gallery: Float[Array, "g d"], score_fn: ScoreFn, ranking: Ranking
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k nearest by a sort of all scores, a block of queries at a time."""
    rows, images = max(1, CPU_MAX_SCORES // len(gallery)), np.arange(len(gallery), dtype=np.int32)
    found = []
    for start in range(0, max(len(queries), 1), rows):
        block = queries[start : start + rows]
        short = rows - len(block) if start else 0  # the last block is scored by the same program
        scored = _score(ranking.dtype, score_fn, jnp.pad(block, ((0, short), (0, 0))), gallery)
        scores = np.asarray(scored)[: len(block)]
        found.append(ordered(scores, np.broadcast_to(images, scores.shape), ranking.k))
    scores, index = (np.concatenate(x) for x in zip(*found, strict=True))
    return jnp.asarray(scores), jnp.asarray(index)


@partial(jax.jit, static_argnums=0)
def _score(dtype: np.dtype, score_fn: ScoreFn, queries: Array, gallery: Array) -> Array:
    return score_fn(queries, gallery).astype(dtype)


def ordered(
    scores: Float[AnyArray, "q c"], index: Int[AnyArray, "q c"], k: int
) -> tuple[Float[AnyArray, "q k"], Int[AnyArray, "q k"]]:
    """The k highest scores of each row, best first, NaN before all, and their indices, ties to the lowest.

    On a CPU NumPy sorts rows, many times as fast as XLA, but not stably: rows with ties are sorted again.
    """
    if isinstance(scores, jax.Array) and next(iter(scores.devices())).platform != "cpu":
        negative, sorted_index = jax.lax.sort((-scores, jnp.asarray(index)), num_keys=2)
        return -negative[:, :k], sorted_index[:, :k]
    best: np.ndarray = np.asarray(scores)
    descending, indices = -best, np.asarray(index)
    descending[np.isnan(descending)] = -np.inf
    order = np.argsort(descending, axis=1)
    ranked = np.take_along_axis(descending, order, axis=1)
    tied = np.flatnonzero((ranked[:, 1:] == ranked[:, :-1]).any(axis=1))
    order[tied] = np.lexsort((indices[tied], descending[tied]), axis=1)
    order = order[:, :k]
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(indices, order, axis=1)


@partial(jax.jit, static_argnums=3)
def _top_k(queries: Array, gallery: Array, score_fn: ScoreFn, ranking: Ranking) -> tuple[Array, Array]:
    return _finish(*_search(queries, _Shard(gallery, 0, len(gallery), score_fn), ranking))


@partial(jax.jit, static_argnames=("ranking", "count", "mesh"))
def _top_k_sharded(
    queries: Array, gallery: Array, score_fn: ScoreFn, *, ranking: Ranking, count: int, mesh: Mesh
) -> tuple[Array, Array]:
    """Each device searches its shard of the gallery; the best of all are the best of their bests."""

    def search(queries: Array, images: Array, score_fn: ScoreFn) -> tuple[Array, Array]:
        first = jax.lax.axis_index("gallery").astype(jnp.int32) * len(images)
        found = _search(queries, _Shard(images, first, count, score_fn), ranking)
        scores, index = jax.lax.all_gather(found, "gallery", axis=1, tiled=True)
        return _best(scores, index, ranking.k)

    everywhere = PartitionSpec()
    specs = everywhere, PartitionSpec("gallery"), everywhere
    search = jax.shard_map(search, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)
    return _finish(*search(queries, gallery, score_fn))


@dataclass(frozen=True)
class _Shard:
    """A shard of the gallery: its images, those before it, those in the whole gallery, and their score."""

    images: Float[Array, "g d"]
    first: int | Int[Array, ""]
    count: int
    score_fn: ScoreFn


def _lowest(dtype: DTypeLike) -> float:
    """Stands for a score of -inf, since -inf itself marks padding."""
    return float(jnp.finfo(dtype).min)


def _finish(scores: Array, index: Array) -> tuple[Array, Array]:
    return jnp.where(scores == _lowest(scores.dtype), -jnp.inf, scores), index


def _best(scores: Float[Array, "a n"], index: Int[Array, "a n"], k: int) -> tuple[Array, Array]:
    """The k highest scores of each row and their indices; ties go to the first."""
    scores, place = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(index, place, axis=1)


def blocks_of(x: Shaped[Array, "n d"], most: int) -> Shaped[Array, "blocks size d"]:
    """Equal blocks of at most `most` rows, the last one padded with zeros."""
    count = max(-(-len(x) // most), 1)
    size = -(-len(x) // count)
    return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, x.shape[1])


def _search(
    queries: Float[Array, "q d"], shard: _Shard, ranking: Ranking
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k nearest in a shard of the gallery, a block of queries at a time."""
    most, whole = CPU_TILE if jax.default_backend() == "cpu" else TILE
    blocks, images = blocks_of(queries, most), len(shard.images)
    columns = min(images, whole)
    strips = -(-images // STRIP)
    tiles = -(-images // (columns * strips))
    grouped = columns == whole and not ranking.approx
    size = _group(tiles * columns, ranking.k, whole) if grouped else 1
    strip = _StripSearch(shard, ranking, rows=blocks.shape[1], tiles=tiles, columns=columns, size=size)
    # All blocks share one buffer: a new one for each costs a CPU another pass over the scores.
    buffer = jnp.zeros((tiles, strip.rows, columns // size, size), ranking.dtype)
    _, (scores, index) = jax.lax.scan(partial(strip.search, strips), buffer, blocks)
    return scores.reshape(-1, ranking.k)[: len(queries)], index.reshape(-1, ranking.k)[: len(queries)]


@dataclass(frozen=True)
class _StripSearch:
    """The search of a block of queries, strip by strip of a shard.

    In each strip it computes the scores of all tiles, ranks the maxima of groups of images, then ranks the
    images of the k best groups together with the best so far. The k best images are among them: k groups
    come before every other group, each with an image that comes before all images of the other group.
    Ranking all scores would take longer than computing them.

    Attributes:
        shard, ranking: where to search, and for what.
        rows: queries of a block.
        tiles: tiles of a strip.
        columns: images of a tile.
        size: images of a group.
    """

    shard: _Shard
    ranking: Ranking
    rows: int
    tiles: int
    columns: int
    size: int

    def search(
        self, strips: int, buffer: StripScores, block: Float[Array, "a d"]
    ) -> tuple[StripScores, Found]:
        """The k nearest of each query of a block."""
        k, tiles = self.ranking.k, self.tiles
        none = (
            jnp.full((self.rows, k), -jnp.inf, self.ranking.dtype),
            jnp.full((self.rows, k), self.shard.count, jnp.int32),
        )
        numbers = jnp.arange(strips * tiles, dtype=jnp.int32).reshape(strips, tiles)
        return jax.lax.scan(partial(self.merge, block), (buffer, none), numbers)[0]

    def merge(
        self, block: Float[Array, "a d"], carry: tuple[StripScores, Found], numbers: Int[Array, " t"]
    ) -> tuple[tuple[StripScores, Found], None]:
        """The best so far, after a strip of tiles of these numbers."""
        buffer, best = carry
        rows, groups_of_tile = self.rows, self.columns // self.size
        buffer, maxima = jax.lax.scan(partial(self.score, block), buffer, numbers)
        maxima = jnp.moveaxis(maxima, 0, 1).reshape(rows, self.tiles * groups_of_tile)
        chosen = min(self.ranking.k, self.tiles * groups_of_tile)
        approx_rank = partial(jax.lax.approx_max_k, recall_target=RECALL)
        groups = (approx_rank if self.ranking.approx else jax.lax.top_k)(maxima, chosen)[1]
        tile, group = jnp.divmod(jnp.sort(groups, axis=1), groups_of_tile)
        scores = buffer[tile, jnp.arange(rows)[:, None], group]
        members = jnp.arange(self.size, dtype=jnp.int32)
        index = (self.shard.first + self.start(numbers[tile]) + group * self.size)[:, :, None] + members
        # Ties go to the first: the best so far, then lower indices.
        scores = jnp.concatenate([best[0], scores.reshape(rows, chosen * self.size)], axis=1)
        index = jnp.concatenate([best[1], index.reshape(rows, chosen * self.size)], axis=1)
        return (buffer, _best(scores, index, self.ranking.k)), None

    def score(
        self, block: Float[Array, "a d"], buffer: StripScores, tile: Int[Array, ""]
    ) -> tuple[StripScores, Float[Array, "a groups"]]:
        """The scores of a tile, added to those of its strip, and the maxima of its groups."""
        shard, dtype, start = self.shard, self.ranking.dtype, self.start(tile)
        images = jax.lax.dynamic_slice_in_dim(shard.images, start, self.columns)
        index = start + jnp.arange(self.columns, dtype=jnp.int32)
        scores = jnp.maximum(shard.score_fn(block, images).astype(dtype), _lowest(dtype))
        scores = jnp.where(scores == 0, 0, scores)  # -0.0 would rank below 0.0
        fresh = (index >= tile * self.columns) & (shard.first + index < shard.count)
        scores = jnp.where(fresh, scores, -jnp.inf)
        scores = scores.reshape(self.rows, self.columns // self.size, self.size)
        buffer = jax.lax.dynamic_update_index_in_dim(buffer, scores, tile % self.tiles, 0)
        return buffer, jnp.max(scores, axis=2)

    def start(self, tile: Int[Array, "..."]) -> Int[Array, "..."]:
        """The first image of a tile; the last tile ends with the shard, and overlaps the one before."""
        return jnp.minimum(tile * self.columns, len(self.shard.images) - self.columns)


def _group(images: int, k: int, most: int) -> int:
    """The size of a group for which the maxima are about as many as the images of k groups."""
    return min(2 ** round(math.log2(max(images / k, 1)) / 2), most)
