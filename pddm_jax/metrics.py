"""How good a ranking is: Recall@K, MAP@R, R-precision; and how good a clustering: NMI."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pddm_jax.checks import as_finite_matrix, as_labels
from pddm_jax.retrieval import ScoreFn, nearest
from pddm_jax.types import AnyArray

KS = (1, 2, 4, 8, 16, 32)


class Ranking(NamedTuple):
    """The nearest gallery images of each query, best first, and which of them are of its class."""

    neighbours: Int[np.ndarray, "n k"]
    match: Bool[np.ndarray, "n k"]
    relevant: Int[np.ndarray, " n"]  # how many images of its class the gallery holds


def rank(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    k: int = 1,
    gallery: Float[AnyArray, "m d"] | None = None,
    gallery_labels: Int[AnyArray, " m"] | None = None,
    score_fn: ScoreFn | None = None,
) -> Ranking:
    """Rank the gallery for each query, at least to the depth of its class.

    Args:
        embeddings: [n, d] queries.
        labels: [n] their classes, any integers.
        k: the least depth; the ranking ends sooner only where the gallery does.
        gallery: [m, d]; None = the queries, each of them itself left out by its index.
        gallery_labels: [m] classes, given with the gallery.
        score_fn: see `nearest`.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, or one of gallery and
            gallery_labels is missing.
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together")
    embeddings = as_finite_matrix("embeddings", embeddings)
    as_labels("labels", labels, len(embeddings))
    itself = gallery is None
    if gallery is None or gallery_labels is None:
        gallery, gallery_labels = embeddings, labels
    else:
        gallery = as_finite_matrix("gallery", gallery, embeddings.shape[1])
        as_labels("gallery_labels", gallery_labels, len(gallery))
    # Numbered together, labels of two arrays compare whatever their width and sign.
    both = np.concatenate([np.asarray(x).astype(object) for x in (labels, gallery_labels)])
    classes, gallery_classes = np.split(np.asarray(as_labels("labels", both, len(both))), [len(embeddings)])
    relevant = np.bincount(gallery_classes, minlength=len(both))[classes] - itself

    depth = min(max(k, relevant.max(initial=0)), len(gallery) - itself)
    if depth < 1 or not len(embeddings):
        nothing = np.zeros((len(embeddings), 0))
        return Ranking(nothing.astype(int), nothing.astype(bool), relevant)
    index = np.asarray(nearest(embeddings, gallery, int(depth) + itself, score_fn)[1])
    if itself:
        # A stable sort moves the query itself to the end, and the end, itself or not, is cut.
        order = np.argsort(index == np.arange(len(index))[:, None], axis=1, kind="stable")
        index = np.take_along_axis(index, order, axis=1)[:, :-1]
    return Ranking(index, gallery_classes[index] == classes[:, None], relevant)


def recall_of(ranking: Ranking, ks: Sequence[int] = KS) -> dict[int, float]:
    """Recall@K of a ranking; see `recall_at_k`."""
    return {k: float(ranking.match[:, :k].any(axis=1).mean()) for k in ks}


def _within_class(ranking: Ranking) -> tuple[Bool[np.ndarray, "n r"], Int[np.ndarray, " n"]]:
    """Matches among the first R of each query, R the size of its class; queries with R = 0 left out."""
    has_class = ranking.relevant > 0
    match, r = ranking.match[has_class], ranking.relevant[has_class]
    return match & (np.arange(match.shape[1]) < r[:, None]), r


def map_at_r_of(ranking: Ranking) -> float:
    """MAP@R of a ranking; see `map_at_r`."""
    match, r = _within_class(ranking)
    precision = np.cumsum(match, axis=1) / np.arange(1, match.shape[1] + 1)
    return float(np.mean(np.sum(precision * match, axis=1) / r)) if len(r) else 0.0


def r_precision_of(ranking: Ranking) -> float:
    """R-precision of a ranking; see `r_precision`."""
    match, r = _within_class(ranking)
    return float(np.mean(match.sum(axis=1) / r)) if len(r) else 0.0


def recall_at_k(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    ks: Sequence[int] = KS,
    gallery: Float[AnyArray, "m d"] | None = None,
    gallery_labels: Int[AnyArray, " m"] | None = None,
    score_fn: ScoreFn | None = None,
) -> dict[int, float]:
    """The share of queries that have an image of their class among their K nearest.

    A query whose class the gallery does not hold is a miss.

    Args:
        embeddings: [n, d] queries.
        labels: [n] their classes, any integers.
        ks: the depths K.
        gallery: [m, d]; None = the queries, each of them itself left out by its index.
        gallery_labels: [m] classes, given with the gallery.
        score_fn: see `nearest`; the default ranks by Euclidean distance.

    Returns:
        {K: share in 0..1}.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, there is no query, or a K is
            no integer of at least 1.

    Source: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011, in
    the form of Oh Song et al., CVPR 2016, section 6.
    """
    whole = isinstance(ks, Collection) and all(isinstance(k, int | np.integer) for k in ks)
    if not whole or not len(ks) or min(ks) < 1:
        raise ValueError(f"ks must hold integers of at least 1, got {ks}")
    ranking = rank(embeddings, labels, max(ks), gallery, gallery_labels, score_fn)
    if not len(ranking.match):
        raise ValueError("embeddings must hold at least one query")
    return recall_of(ranking, ks)


def map_at_r(
    embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], score_fn: ScoreFn | None = None
) -> float:
    """Mean average precision at R, each query against all the others.

        mean over queries of  1/R sum_{i=1..R} P(i) [the i-th nearest is of the query's class]

    with R the number of other images of the class and P(i) the precision among the first i.
    Queries that are alone in their class are left out; 0 where all are.

    Args:
        embeddings: [n, d].
        labels: [n], any integers.
        score_fn: see `nearest`.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: shapes or lengths do not fit, or an embedding is not finite.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.
    """
    return map_at_r_of(rank(embeddings, labels, score_fn=score_fn))


def r_precision(
    embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], score_fn: ScoreFn | None = None
) -> float:
    """The mean over queries of  1/R sum_{i=1..R} [the i-th nearest is of the query's class].

    Args:
        embeddings: [n, d].
        labels: [n], any integers.
        score_fn: see `nearest`.

    Returns:
        A share in 0..1; R and the queries left out are those of `map_at_r`.

    Raises:
        ValueError: shapes or lengths do not fit, or an embedding is not finite.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.
    """
    return r_precision_of(rank(embeddings, labels, score_fn=score_fn))


def nmi(embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], seed: int = 0) -> float:
    """Normalised mutual information of the classes and of k-means clusters, as many as classes.

        NMI = 2 I(classes; clusters) / (H(classes) + H(clusters))

    Args:
        embeddings: [n, d].
        labels: [n], any integers.
        seed: of the k-means start (k-means++, one start).

    Returns:
        NMI in 0..1.

    Raises:
        ValueError: shapes or lengths do not fit, or an embedding is not finite.

    Source: Oh Song et al., CVPR 2016, section 6; clustering and measure are scikit-learn's.
    """
    from sklearn.cluster import KMeans  # slow to import, and needed here only
    from sklearn.metrics import normalized_mutual_info_score

    x = np.asarray(as_finite_matrix("embeddings", embeddings))
    codes = np.asarray(as_labels("labels", np.asarray(labels), len(x)))
    clusters = KMeans(len(np.unique(codes)), n_init=1, random_state=seed).fit_predict(x)
    return float(normalized_mutual_info_score(codes, clusters))
