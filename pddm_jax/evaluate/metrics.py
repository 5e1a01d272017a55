"""Retrieval metrics: Recall@K, MAP@R, R-precision of a ranking; and NMI of a clustering."""

import warnings
from collections.abc import Collection, Sequence

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from pddm_jax.checks import as_labels, as_rows
from pddm_jax.evaluate.measures import (
    Measures,
    QueryMeasures,
    nearest_others,
    query_measures,
    summarize,
)
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.types import AnyArray

__all__ = [
    "KS",
    "Measures",
    "QueryMeasures",
    "map_at_r",
    "nearest_others",
    "nmi",
    "query_measures",
    "r_precision",
    "recall_at_k",
    "summarize",
]

KS = (1, 2, 4, 8, 16, 32)


def _warn_left_out(name: str, found: QueryMeasures) -> QueryMeasures:
    """Log how many queries are left out, and return the measures."""
    left_out = int((found.relevant == 0).sum())
    if left_out:
        logging.warning(
            "%s: %d of %d queries are left out: the gallery holds no other image of their class",
            *(name, left_out, len(found.relevant)),
        )
    return found


def recall_at_k(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    ks: Sequence[int] = KS,
    gallery: Float[AnyArray, "m d"] | None = None,
    gallery_labels: Int[AnyArray, " m"] | None = None,
    score_fn: ScoreFn | None = None,
) -> dict[int, float]:
    """Recall@K: the share of queries that have an image of their class among their K nearest.

    A query without an image of its class in the gallery cannot be answered: it is left out, and a warning
    gives the number of such queries. A K beyond the size of the gallery (not counting the query itself)
    means the whole gallery, where every other query has a match: the recall is 1.0.

    Args:
        embeddings: [n, d] queries.
        labels: [n] their classes, any integers.
        ks: the depths K, integers of at least 1.
        gallery: [m, d]; None = the queries, each of them itself left out by its index.
        gallery_labels: [m] classes, given with the gallery.
        score_fn: see `nearest`; the default ranks by Euclidean distance.

    Returns:
        {K: share in 0..1}.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, there is no query or none that
            can be answered, or a K is not an integer of at least 1 (a bool is not an integer here).

    Source: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011, in
    the form of Oh Song et al., CVPR 2016, section 6.
    """
    depth = _deepest(ks)
    found = query_measures(
        embeddings,
        labels,
        depth,
        gallery=gallery,
        gallery_labels=gallery_labels,
        score_fn=score_fn,
        within_class=False,
    )
    return summarize(_warn_left_out("recall_at_k", found), ks).recall_at_k


def _deepest(ks: object) -> int:
    """The largest of some depths; ValueError where they are not integers of at least 1."""
    scalar = isinstance(ks, np.ndarray) and not ks.ndim
    depths = [*ks] if isinstance(ks, Collection) and not scalar else []
    if not depths or not all(
        isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1 for k in depths
    ):
        raise ValueError(f"ks must hold integers of at least 1, got {ks!r}")
    return int(max(depths))


def map_at_r(
    embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], score_fn: ScoreFn | None = None
) -> float:
    """Mean average precision at R, each query against all the others.

        mean over queries of  1/R sum_{i=1..R} P(i) [the i-th nearest is of the query's class]

    with R the number of other images of the class and P(i) the precision among the first i.
    Queries that are alone in their class are left out, and a warning gives their number.

    Args:
        embeddings: [n, d].
        labels: [n], any integers.
        score_fn: see `nearest`.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, or no query has another image
            of its class.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.
    """
    found = query_measures(embeddings, labels, score_fn=score_fn)
    return summarize(_warn_left_out("map_at_r", found)).map_at_r


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
        ValueError: as for `map_at_r`.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.
    """
    found = query_measures(embeddings, labels, score_fn=score_fn)
    return summarize(_warn_left_out("r_precision", found)).r_precision


def nmi(embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], seed: int = 0) -> float:
    """Normalized mutual information (NMI) of the classes and of as many k-means clusters.

        NMI = 2 I(classes; clusters) / (H(classes) + H(clusters))

    Args:
        embeddings: [n, d].
        labels: [n], any integers.
        seed: of the k-means initialization (k-means++, one run).

    Returns:
        NMI in 0..1.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, or there are none.

    Source: Oh Song et al., CVPR 2016, section 6; scikit-learn does the clustering and computes the NMI.
    """
    from sklearn.cluster import KMeans  # slow to import, and used only here
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score

    x = np.asarray(as_rows("embeddings", embeddings), np.float64)  # k-means expands its squared distances
    if not x.size:
        raise ValueError(f"embeddings must hold at least one image and one feature, got shape {x.shape}")
    x = np.ldexp(x, -int(np.frexp(np.abs(x).max(initial=0))[1]))
    codes = np.asarray(as_labels("labels", labels, len(x)))
    with warnings.catch_warnings():
        # Fewer distinct images than classes give fewer clusters, and NMI measures that.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(len(np.unique(codes)), n_init=1, random_state=seed).fit_predict(x)
    return float(normalized_mutual_info_score(codes, clusters))
