"""Example queries of a report, each with its nearest neighbors."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from pddm_jax.data.streams import REPORT, stream
from pddm_jax.evaluate.metrics import QueryMeasures, nearest_others
from pddm_jax.pddm.unit import pair_scores
from pddm_jax.report.sample import Embedded
from pddm_jax.types import Params

EXAMPLES = 60
"""Queries with a right first neighbor, and as many with a wrong one."""

NEIGHBORS = 8


def example_queries(
    data: Embedded, measures: QueryMeasures, unit: Params | None, seed: int
) -> list[dict[str, Any]]:
    """Queries drawn by seed, each with its nearest neighbors by distance.

    Args:
        data: the test images; each is a query against all others.
        measures: of the ranking by distance.
        unit: parameters of the PDDM unit; None: it was not trained.
        seed: of the run.

    Returns:
        For each query its index ("image") and its "neighbors": index, whether the class is that of the
        query ("right"), Euclidean "distance", and PDDM "score" or None.
    """
    order = stream(seed, REPORT).permutation(len(measures.first))
    order = order[measures.relevant[order] > 0]
    right = measures.first[order] == 0
    queries = np.sort(np.concatenate([order[right][:EXAMPLES], order[~right][:EXAMPLES]]))
    found = nearest_others(data.embeddings, queries, min(NEIGHBORS, len(data.embeddings) - 1))
    labels = data.images.labels
    entries = []
    for query, neighbors in zip(queries.tolist(), found, strict=True):
        distances, scores = compared(data.embeddings, np.full(len(neighbors), query), neighbors, unit)
        rows = zip(neighbors.tolist(), distances, scores, strict=True)
        entries.append(
            {
                "image": query,
                "neighbors": [
                    {"image": n, "right": bool(labels[n] == labels[query]), "distance": d, "score": s}
                    for n, d, s in rows
                ],
            }
        )
    return entries


def compared(
    embeddings: Float32[np.ndarray, "n d"],
    first: Int[np.ndarray, " m"],
    second: Int[np.ndarray, " m"],
    unit: Params | None,
) -> tuple[list[float], list[float | None]]:
    """Distances and PDDM scores of pairs of embeddings; scores are None without a unit."""
    a, b = embeddings[first], embeddings[second]
    distances = np.linalg.norm(a.astype(np.float64) - b, axis=1).tolist()
    scores = [None] * len(a) if unit is None else np.asarray(pair_scores(unit, a, b)).tolist()
    return distances, scores
