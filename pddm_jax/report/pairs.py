"""The hardest pairs of a sample by PDDM score and by distance, and scores against distances."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import pdist

from pddm_jax.data.streams import REPORT, stream
from pddm_jax.pddm.scoring import score_matrix
from pddm_jax.report.sample import Embedded
from pddm_jax.types import Params

HARDEST = 12
"""Pairs of each list."""

POINTS = 700
"""Positive pairs of the plot of scores against distances, and as many negative ones."""


def hardest_pairs(data: Embedded, unit: Params | None, seed: int) -> dict[str, Any]:
    """The hardest pairs among all pairs of the images of a sample.

    A negative pair is harder, the more similar its images are, and a positive pair, the less similar they
    are. In each list a pair of classes appears once.

    Args:
        data: the sample.
        unit: parameters of the PDDM unit; None: it was not trained, and only distances are compared.
        seed: of the run.

    Returns:
        "images": the size of the sample. "lists": by kind ("negative", "positive") and by measure
        ("euclidean", "pddm") the pairs as indices with "distance" and "score". "points": pairs drawn by
        seed, with "distance", "score" and "kind"; empty without a unit.
    """
    x, labels = data.embeddings.astype(np.float64), data.images.labels
    first, second = np.triu_indices(len(x), 1)
    distances = pdist(x)  # in the order of triu_indices
    similarity = {"euclidean": -distances}
    if unit is not None:
        similarity["pddm"] = np.asarray(score_matrix(unit, data.embeddings))[first, second]
    classes = np.sort(np.stack([labels[first], labels[second]], axis=1), axis=1)
    same = classes[:, 0] == classes[:, 1]

    def pair(n: int) -> dict[str, Any]:
        scores = similarity.get("pddm")
        return {
            "first": int(first[n]),
            "second": int(second[n]),
            "distance": float(distances[n]),
            "score": None if scores is None else float(scores[n]),
            "kind": "positive" if same[n] else "negative",
        }

    lists = {
        kind: {
            by: [pair(n) for n in _hardest(classes, of == same, sign * values)]
            for by, values in similarity.items()
        }
        for kind, of, sign in (("negative", np.False_, 1), ("positive", np.True_, -1))
    }
    points = [] if unit is None else [pair(n) for n in _drawn(same, seed)]
    return {"images": len(x), "lists": lists, "points": points}


def _hardest(
    classes: Int[np.ndarray, "p 2"], among: Bool[np.ndarray, " p"], hardness: Float[np.ndarray, " p"]
) -> list[int]:
    """The hardest pairs, hardest first, of different pairs of classes."""
    candidates = np.flatnonzero(among)
    order = candidates[np.argsort(-hardness[candidates], kind="stable")]
    _, places = np.unique(classes[order], axis=0, return_index=True)
    return order[np.sort(places)[:HARDEST]].tolist()  # type: ignore[no-any-return]


def _drawn(same: Bool[np.ndarray, " p"], seed: int) -> list[int]:
    """Positive and negative pairs, drawn by seed."""
    rng = stream(seed, REPORT)
    parts = [np.flatnonzero(same == kind) for kind in (True, False)]
    return [n for part in parts for n in rng.permutation(part)[:POINTS].tolist()]
