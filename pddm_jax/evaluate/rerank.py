"""Re-ranking: the Euclidean neighbors of each query to a depth, ordered by a learned score of the pair.

A PDDM score costs far more than a distance. Scoring only the `depth` nearest images, a ranking of n images
costs n * depth scores instead of n * n.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_count, as_rows
from pddm_jax.evaluate.retrieval import as_score_fn, nearest, refuse_nan
from pddm_jax.evaluate.top_k import ScoreFn, blocks_of, ordered
from pddm_jax.types import AnyArray

DEPTH = 100
"""Neighbors that are re-ranked by default."""

MAX_PAIRS = 2**13
"""Pairs of queries and candidates that a device scores together."""


def rerank(
    queries: Float[AnyArray, "q d"],
    gallery: Float[AnyArray, "g d"],
    score_fn: ScoreFn,
    depth: int = DEPTH,
) -> tuple[Float[Array, "q depth"], Int[Array, "q depth"]]:
    """The `depth` Euclidean neighbors of each query, ordered by score; ties go to the lowest index.

    The neighbors are those of `nearest`, exact for any scale of the embeddings, and every one of them is
    scored. An image of high score that lies beyond the depth is not found. Memory is O(q depth), plus the
    scores of a few queries at a time. The queries are sharded over the devices of this process. Not for use
    under `jax.jit`.

    Args:
        queries: [q, d] embeddings, finite.
        gallery: [g, d] embeddings, finite.
        score_fn: scores [a, b] of embeddings [a, d] and [b, d], higher = more similar; see `nearest`.
        depth: number of neighbors that are scored, at least 1; beyond g it means the whole gallery.

    Returns:
        Scores in float32, best first, and gallery indices, each [q, min(depth, g)].

    Raises:
        ValueError: queries or gallery are not matrices of one width or are not finite, the gallery is
            empty, depth is not an integer of at least 1, or score_fn returns no array [a, b], or a NaN.

    Example (`score_rows` computes what `score_matrix` does; it is several times faster for single queries):
        score_fn = jax.tree_util.Partial(pddm_jax.pddm.scoring.score_rows, params)
        scores, index = rerank(queries, gallery, score_fn, depth=100)
    """
    depth, same = as_count("depth", depth, least=1), queries is gallery
    queries = as_rows("queries", queries)
    gallery = queries if same else as_rows("gallery", gallery, queries.shape[1])
    if not len(gallery):
        raise ValueError("gallery must hold at least one image")
    candidates = np.asarray(nearest(queries, gallery, min(depth, len(gallery)))[1])
    return by_score(queries, gallery, candidates, score_fn)


def by_score(
    queries: Float[AnyArray, "q d"],
    gallery: Float[AnyArray, "g d"],
    candidates: Int[AnyArray, "q c"],
    score_fn: ScoreFn,
) -> tuple[Float[Array, "q c"], Int[Array, "q c"]]:
    """Candidates of each query, given by their gallery indices, ordered by score; ties to the lowest index.

    Raises:
        ValueError: as `rerank`, of score_fn.
    """
    x, images = (jnp.asarray(rows, jnp.float32) for rows in (queries, gallery))
    score_fn, index = as_score_fn(score_fn, x, images), jnp.asarray(candidates, jnp.int32)
    mesh = Mesh(np.array(jax.local_devices()), ("queries",), axis_types=(AxisType.Auto,))
    count, extra = len(x), -len(x) % mesh.size
    by_query = [jnp.pad(rows, ((0, extra), (0, 0))) for rows in (x, index)]
    by_query = jax.device_put(by_query, NamedSharding(mesh, PartitionSpec("queries")))
    whole = jax.device_put((images, score_fn), NamedSharding(mesh, PartitionSpec()))
    scores = _scores(*by_query, *whole, mesh=mesh)[:count]
    refuse_nan(scores)
    found = ordered(scores, index, index.shape[1])
    return jnp.asarray(found[0]), jnp.asarray(found[1])


@partial(jax.jit, static_argnames="mesh")
def _scores(
    queries: Array, candidates: Array, gallery: Array, score_fn: ScoreFn, *, mesh: Mesh
) -> Float[Array, "q c"]:
    """The scores of the candidates of each query, the queries sharded over the devices."""

    def of_query(query_and_candidates: tuple[Array, Array], gallery: Array, score_fn: ScoreFn) -> Array:
        query, index = query_and_candidates
        scores = score_fn(query[None], gallery[index])[0].astype(jnp.float32)
        return jnp.where(scores == 0, 0, scores)  # 0.0 and -0.0 tie

    def share(queries: Array, candidates: Array, gallery: Array, score_fn: ScoreFn) -> Array:
        each = jax.vmap(partial(of_query, gallery=gallery, score_fn=score_fn))
        per_pass = max(1, MAX_PAIRS // max(1, candidates.shape[1]))
        scores = jax.lax.map(each, (blocks_of(queries, per_pass), blocks_of(candidates, per_pass)))
        return scores.reshape(-1, candidates.shape[1])[: len(queries)]

    shard, everywhere = PartitionSpec("queries"), PartitionSpec()
    share = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(shard, shard, everywhere, everywhere),
        out_specs=shard,
        check_vma=False,
    )
    return share(queries, candidates, gallery, score_fn)
