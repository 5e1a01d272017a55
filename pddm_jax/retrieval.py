"""Exact nearest neighbours by any score, block by block."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_matrix
from pddm_jax.pairwise import squared_distances
from pddm_jax.types import AnyArray

ScoreFn = Callable[[Float[Array, "a d"], Float[Array, "b d"]], Float[Array, "a b"]]
"""Scores of all pairs of queries and gallery images, higher = more similar."""

BLOCK = 1024
"""Queries, and gallery images, that are scored together."""

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
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The exact k nearest gallery images of each query, best first; ties go to the lowest index.

    No vector space is assumed: every pair is scored, BLOCK x BLOCK pairs at a time.

    Args:
        queries: [q, d] embeddings, finite.
        gallery: [g, d] embeddings, finite.
        k: how many, at most g.
        score_fn: scores [a, b] of embeddings [a, d] and [b, d], higher = more similar, not nan. The default
            is the negative squared Euclidean distance. `jax.tree_util.Partial(score_matrix, params)`
            ranks by PDDM score, and is compiled once for all params.

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
        # Distances stay as they are, and are not lost where all embeddings lie far from the origin.
        # The new origin is an image: nearby floats, and integers, are subtracted from it exactly.
        from_mean = squared_distances(gallery, jnp.mean(gallery, axis=0))
        origin = gallery[jnp.argmin(from_mean)]
        queries, gallery = queries - origin, gallery - origin
        score_fn = negative_squared_distances
    if not isinstance(score_fn, jax.tree_util.Partial):  # one within another would hide its arrays
        score_fn = jax.tree_util.Partial(score_fn)
    return _nearest(queries, gallery, k, score_fn)


def _blocks(x: Float[Array, "n d"]) -> Float[Array, "blocks size d"]:
    """Equal blocks of at most BLOCK rows, the last one filled up with zeros."""
    count = max(-(-len(x) // BLOCK), 1)
    size = -(-len(x) // count)
    return jnp.pad(x, ((0, count * size - len(x)), (0, 0))).reshape(count, size, x.shape[1])


@partial(jax.jit, static_argnums=2)
def _nearest(queries: Array, gallery: Array, k: int, score_fn: ScoreFn) -> tuple[Array, Array]:
    blocks = _blocks(gallery)
    size = blocks.shape[1]
    starts = jnp.arange(len(blocks)) * size

    def search(block: Float[Array, "a d"]) -> tuple[Array, Array]:
        def merge(best: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            # The best so far come first, and top_k takes the first of equals: the lowest index.
            images, start = part
            index = start + jnp.arange(size)
            scores = jnp.maximum(score_fn(block, images).astype(jnp.float32), LOWEST)
            scores = jnp.where(scores == 0, 0, scores)  # -0.0 would rank below 0.0
            scores = jnp.where(index < len(gallery), scores, -jnp.inf)
            scores = jnp.concatenate([best[0], scores], axis=1)
            index = jnp.concatenate([best[1], jnp.broadcast_to(index, (len(block), size))], axis=1)
            scores, position = jax.lax.top_k(scores, k)
            return (scores, jnp.take_along_axis(index, position, axis=1)), None

        nothing = jnp.full((len(block), k), -jnp.inf), jnp.full((len(block), k), len(gallery))
        return jax.lax.scan(merge, nothing, (blocks, starts))[0]

    scores, index = jax.lax.map(search, _blocks(queries))
    scores = jnp.where(scores > LOWEST, scores, -jnp.inf)
    return scores.reshape(-1, k)[: len(queries)], index.reshape(-1, k)[: len(queries)]
