"""Nearest neighbours by any score, block by block: exact, or nearly so where that is faster."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_matrix
from pddm_jax.pairwise import squared_distances
from pddm_jax.types import AnyArray

ScoreFn = Callable[[Float[Array, "a d"], Float[Array, "b d"]], Float[Array, "a b"]]
"""Scores of all pairs of queries and gallery images, higher = more similar."""

TILE = 1024, 1024
"""Queries and gallery images that are scored together."""

TILE_OF_A_CPU = 256, 512
"""The same on a CPU, whose scores are no larger than a core's second cache."""

STRIP = 2**16
"""Gallery images whose scores are held at a time."""

Held = Float[Array, "t a groups size"]
"""Scores of the tiles of a strip, by groups of images."""

Found = tuple[Float[Array, "a k"], Int[Array, "a k"]]
"""The highest scores of each query with their index."""

RECALL = 0.95
"""The share of the k nearest that an approximate ranking of a strip finds, at least, on average."""

LOWEST = float(jnp.finfo(jnp.float32).min)
"""Stands for a score of -inf while -inf itself marks what is no image at all."""


def negative_squared_distances(
    queries: Float[Array, "a d"], gallery: Float[Array, "b d"]
) -> Float[Array, "a b"]:
    """-|q - g|^2 of all pairs, through one matrix product: 2 q.g - |q|^2 - |g|^2."""
    dots = jnp.matmul(queries, gallery.T, precision="highest")
    squared_norms = (jnp.sum(jnp.square(x), axis=-1) for x in (queries, gallery))
    return jnp.minimum(2 * dots - jnp.add.outer(*squared_norms), 0)


def nearest(
    queries: Float[AnyArray, "q d"],
    gallery: Float[AnyArray, "g d"],
    k: int,
    score_fn: ScoreFn | None = None,
    *,
    approx: bool = False,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The exact k nearest gallery images of each query, best first; ties go to the lowest index.

    No vector space is assumed: every pair is scored, tile by tile. The gallery is shared out over the
    devices of this process: on a CPU a device for each core (`JAX_NUM_CPU_DEVICES`) is the fastest.

    Args:
        queries: [q, d] embeddings, finite.
        gallery: [g, d] embeddings, finite.
        k: how many, at most g.
        score_fn: scores [a, b] of embeddings [a, d] and [b, d], higher = more similar, not nan. The default
            is the negative squared Euclidean distance. `jax.tree_util.Partial(score_matrix, params)`
            ranks by PDDM score, and is compiled once for all params; a new lambda is compiled each time.
        approx: rank by `jax.lax.approx_max_k`, which on a TPU is faster and finds each of the k with a
            probability of RECALL at least; elsewhere it is as exact as without, and slower.

    Returns:
        Scores and gallery indices, each [q, k].

    Raises:
        ValueError: queries or gallery are no matrices of one width, or k is no integer in 1..g.
    """
    queries = as_matrix("queries", queries)
    gallery = as_matrix("gallery", gallery, queries.shape[1])
    if not isinstance(k, int | np.integer) or not 1 <= k <= len(gallery):
        raise ValueError(f"k must be an integer in 1..{len(gallery)}, the size of the gallery, got {k}")
    if score_fn is None:
        score_fn = jax.tree_util.Partial(_about, _central(gallery))
    if not isinstance(score_fn, jax.tree_util.Partial):  # one within another would hide its arrays
        score_fn = jax.tree_util.Partial(score_fn)
    mesh = Mesh(np.array(jax.local_devices()), ("gallery",), axis_types=(AxisType.Auto,))
    if mesh.size == 1:
        return _nearest(queries, gallery, k, score_fn, approx)
    whole, shares = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("gallery")))
    queries, score_fn = jax.device_put((queries, score_fn), whole)
    filled = jnp.pad(gallery, ((0, -len(gallery) % mesh.size), (0, 0)))
    return _nearest_shared(queries, jax.device_put(filled, shares), len(gallery), k, score_fn, mesh, approx)


@jax.jit
def _central(gallery: Float[Array, "g d"]) -> Float[Array, " d"]:
    """The image that lies nearest to the mean of all.

    Seen from it distances are not lost where all embeddings lie far from the origin; and it is an image:
    nearby floats, and integers, are subtracted from it exactly.
    """
    return gallery[jnp.argmin(squared_distances(gallery, jnp.mean(gallery, axis=0)))]


def _about(origin: Float[Array, " d"], queries: Array, gallery: Array) -> Float[Array, "a b"]:
    return negative_squared_distances(queries - origin, gallery - origin)


@partial(jax.jit, static_argnums=(2, 4))
def _nearest(
    queries: Array, gallery: Array, k: int, score_fn: ScoreFn, approx: bool
) -> tuple[Array, Array]:
    return _finish(*_search(queries, gallery, 0, len(gallery), k, score_fn, approx))


@partial(jax.jit, static_argnums=(2, 3, 5, 6))
def _nearest_shared(
    queries: Array, gallery: Array, count: int, k: int, score_fn: ScoreFn, mesh: Mesh, approx: bool
) -> tuple[Array, Array]:
    """Each device searches its share of the gallery; the best of all are the best of their best."""

    def search(queries: Array, share: Array, score_fn: ScoreFn) -> tuple[Array, Array]:
        first = jax.lax.axis_index("gallery") * len(share)
        found = _search(queries, share, first, count, k, score_fn, approx)
        scores, index = jax.lax.all_gather(found, "gallery", axis=1, tiled=True)
        return _best(scores, index, k)

    everywhere = PartitionSpec()
    shares = everywhere, PartitionSpec("gallery"), everywhere
    search = jax.shard_map(search, mesh=mesh, in_specs=shares, out_specs=everywhere, check_vma=False)
    return _finish(*search(queries, gallery, score_fn))


def _finish(scores: Array, index: Array) -> tuple[Array, Array]:
    return jnp.where(scores > LOWEST, scores, -jnp.inf), index


def _best(scores: Float[Array, "a n"], index: Int[Array, "a n"], k: int) -> tuple[Array, Array]:
    """The k highest scores of each row with their index; of equals the first."""
    scores, place = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(index, place, axis=1)


def _blocks(x: Float[Array, "n d"], most: int) -> Float[Array, "blocks size d"]:
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
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The k nearest in a share of the gallery: `first` images lie before it, `count` are in the whole.

    For each block of queries the gallery is gone over strip by strip: the scores of a strip's tiles are
    made, the maxima of groups of its images are ranked, then the images of the k best groups, together with
    the best so far. The k best images lie there: before any other group come k groups, each with an image
    that comes before all of its own. Ranking all scores would take longer than making them.
    """
    most, whole = TILE_OF_A_CPU if jax.default_backend() == "cpu" else TILE
    blocks = _blocks(queries, most)
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
            index = start(tile) + jnp.arange(columns)
            scores = jnp.maximum(score_fn(block, images).astype(jnp.float32), LOWEST)
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
            index = (first + start(numbers[tile]) + group * size)[:, :, None] + jnp.arange(size)
            # Of equals the first is taken: the best so far, then those of lower index.
            scores = jnp.concatenate([best[0], scores.reshape(rows, chosen * size)], axis=1)
            index = jnp.concatenate([best[1], index.reshape(rows, chosen * size)], axis=1)
            return (held, _best(scores, index, k)), None

        nothing = jnp.full((rows, k), -jnp.inf), jnp.full((rows, k), count)
        return jax.lax.scan(merge, (held, nothing), jnp.arange(strips * tiles).reshape(strips, tiles))[0]

    # Blocks take turns in one place: to make one for each costs a CPU another pass over the scores.
    place = jnp.zeros((tiles, rows, in_tile, size), jnp.float32)
    _, (scores, index) = jax.lax.scan(search, place, blocks)
    return scores.reshape(-1, k)[: len(queries)], index.reshape(-1, k)[: len(queries)]


def _group(images: int, k: int, most: int) -> int:
    """The size of a group for which there are about as many maxima as images in k groups."""
    return min(2 ** round(math.log2(max(images / k, 1)) / 2), most)
