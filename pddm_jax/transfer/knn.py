"""k-nearest-neighbor classification on frozen embeddings, by distance or by any score."""

import numpy as np
from jaxtyping import Float, Int

from pddm_jax.checks import as_rows
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.types import AnyArray

BLOCK = 2**16
"""Images whose votes are counted at a time."""


def knn_classes(
    embeddings: Float[AnyArray, "n d"],
    gallery: Float[AnyArray, "g d"],
    gallery_labels: Int[np.ndarray, " g"],
    k: int = 1,
    score_fn: ScoreFn | None = None,
) -> Int[np.ndarray, " n"]:
    """The most frequent class among the k nearest neighbors of each image; ties go to the lowest class.

    Args:
        embeddings: [n, d].
        gallery: [g, d], embeddings of images of known classes.
        gallery_labels: [g], their classes.
        k: number of neighbors that vote, at most g.
        score_fn: see `nearest`.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, or k is out of its range.

    Source: Cover, Hart, "Nearest Neighbor Pattern Classification", 1967.
    """
    embeddings = as_rows("embeddings", embeddings)
    gallery = as_rows("gallery", gallery, embeddings.shape[1])
    if gallery_labels.shape != gallery.shape[:1]:
        raise ValueError(f"gallery_labels must have shape [{len(gallery)}], got {gallery_labels.shape}")
    classes, codes = np.unique(gallery_labels, return_inverse=True)
    votes = codes[np.asarray(nearest(embeddings, gallery, k, score_fn)[1])]
    blocks = [votes[start : start + BLOCK] for start in range(0, len(votes), BLOCK)]
    return classes[np.concatenate([_most_frequent(block) for block in blocks or [votes]])]


def _most_frequent(votes: Int[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """The most frequent code of each row; ties go to the lowest."""
    votes = np.sort(votes, axis=1)
    counts = sum((votes == vote[:, None]).astype(np.int32) for vote in votes.T)
    best = np.argmax(counts, axis=1)  # argmax takes the first of equals, and the votes ascend
    return votes[np.arange(len(votes)), best]
