"""Nearest class mean classification on frozen embeddings, and top-K accuracy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from pddm_jax.checks import as_rows
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.transfer.class_means import ClassMeans
from pddm_jax.types import AnyArray

KS = (1, 5)


def nearest_classes(
    embeddings: Float[AnyArray, "n d"], means: ClassMeans, k: int = 1, score_fn: ScoreFn | None = None
) -> Int64[np.ndarray, "n k"]:
    """The k classes whose means are nearest to each image, best first; ties go to the lowest class.

    Any number of classes is ranked, block by block; see `nearest`.

    Args:
        embeddings: [n, d].
        means: class means to choose from.
        k: number of classes, at most as many as there are means.
        score_fn: see `nearest`; the default is Euclidean distance, `Partial(score_matrix, params)` the PDDM
            score of (image, mean).

    Raises:
        ValueError: the embeddings are not finite or of another width, or k is out of its range.

    Source: Mensink et al., PAMI 2013, section 3.
    """
    centroids = means.centroids()
    embeddings = as_rows("embeddings", embeddings, centroids.shape[1])
    return means.classes[np.asarray(nearest(embeddings, centroids, k, score_fn)[1])]


def top_k_accuracy(
    ranked: Int[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], ks: Sequence[int] = KS
) -> dict[int, float]:
    """Flat top-K accuracy: the share of images whose class is among the first K, for each K.

    Raises:
        ValueError: there is no image, a K is deeper than the ranking, or the labels do not fit.
    """
    _check(ranked, labels)
    if min(ks) < 1 or max(ks) > ranked.shape[1]:
        raise ValueError(f"ks must be from 1 to {ranked.shape[1]}, the depth of the ranking, got {ks}")
    right = ranked == np.asarray(labels)[:, None]
    return {k: float(right[:, :k].any(axis=1).mean()) for k in ks}


def per_class_accuracy(
    ranked: Int[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " c"], Float64[np.ndarray, " c"]]:
    """The classes of the labels, and the accuracy on the images of each.

    Raises:
        ValueError: there is no image, or the labels do not fit.
    """
    _check(ranked, labels)
    classes, codes = np.unique(labels, return_inverse=True)
    right = np.bincount(codes, weights=ranked[:, 0] == labels)
    return classes, right / np.bincount(codes)


def _check(ranked: Int[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> None:
    if ranked.ndim != 2 or not ranked.size:
        raise ValueError(f"ranked must hold at least one image and one class, got shape {ranked.shape}")
    if labels.shape != ranked.shape[:1]:
        raise ValueError(f"labels must have shape [{len(ranked)}], got {labels.shape}")
