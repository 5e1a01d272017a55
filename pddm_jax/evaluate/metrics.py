"""How good a ranking is: Recall@K, MAP@R, R-precision; and how good a clustering: NMI."""

import warnings
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Float, Int

from pddm_jax.checks import as_labels, as_rows
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.types import AnyArray

KS = (1, 2, 4, 8, 16, 32)

MAX_NEIGHBOURS = 2**21
"""Neighbours that are held at a time: queries times the depth of their ranking."""


class QueryMeasures(NamedTuple):
    """What is measured of each query; it is answerable where the gallery holds an image of its class."""

    relevant: Int[np.ndarray, " n"]  # images of its class in the gallery, the query itself not counted
    first: Int[np.ndarray, " n"]  # rank of the first of them, from 0; the depth where it lies deeper
    r_precision: Float[np.ndarray, " n"]
    map_at_r: Float[np.ndarray, " n"]
    depth: int  # to which the first image of the class was looked for
    whole: bool  # whether that is the whole gallery


class _Given(NamedTuple):
    """Queries and gallery with the classes of both as codes."""

    queries: Float[AnyArray, "n d"]
    gallery: Float[AnyArray, "m d"]
    classes: Int[np.ndarray, " n"]
    gallery_classes: Int[np.ndarray, " m"]
    leave_out: bool  # whether the gallery is the queries, and a query is not its own neighbour


def _checked(
    embeddings: AnyArray, labels: AnyArray, gallery: AnyArray | None, gallery_labels: AnyArray | None
) -> _Given:
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together")
    queries = as_rows("embeddings", embeddings)
    codes = np.asarray(as_labels("labels", _on_host(labels), len(queries)))
    if gallery is None or gallery_labels is None:
        return _Given(queries, queries, codes, codes, leave_out=True)
    gallery = as_rows("gallery", gallery, queries.shape[1])
    as_labels("gallery_labels", gallery_labels, len(gallery))
    # Numbered together, as objects, labels of two arrays compare whatever their width and sign.
    both = np.concatenate([np.asarray(x).astype(object) for x in (labels, gallery_labels)])
    codes = np.asarray(as_labels("labels", both, len(both)))
    return _Given(queries, gallery, codes[: len(queries)], codes[len(queries) :], leave_out=False)


def _on_host(labels: AnyArray) -> object:
    """Labels as `as_labels` numbers them."""
    return np.asarray(labels) if isinstance(labels, jax.Array) else labels


def query_measures(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    depth: int = 1,
    gallery: Float[AnyArray, "m d"] | None = None,
    gallery_labels: Int[AnyArray, " m"] | None = None,
    score_fn: ScoreFn | None = None,
    *,
    within_class: bool = True,
) -> QueryMeasures:
    """The measures of each query, block by block of queries: memory is bounded whatever the classes' sizes.

    Args:
        embeddings: [n, d] queries.
        labels: [n] their classes, any integers.
        depth: to which the first image of the class is looked for.
        gallery: [m, d]; None = the queries, each of them itself left out by its index.
        gallery_labels: [m] classes, given with the gallery.
        score_fn: see `nearest`.
        within_class: rank to the size of the largest class; otherwise R-precision and MAP@R are 0.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, one of gallery and
            gallery_labels is missing, there is no query, or none that can be answered.
    """
    given = _checked(embeddings, labels, gallery, gallery_labels)
    if not len(given.classes):
        raise ValueError("embeddings must hold at least one query")
    counts = np.bincount(given.gallery_classes, minlength=given.classes.max() + 1)
    relevant = counts[given.classes] - given.leave_out
    answerable = np.flatnonzero(relevant)
    if not len(answerable):
        where = "another image of its class" if given.leave_out else "an image of its class in the gallery"
        raise ValueError(f"labels: none of {len(relevant)} queries has {where}, so nothing can be found")
    most = len(given.gallery) - given.leave_out
    depth = min(depth, most)
    deepest = max(depth, int(relevant.max())) if within_class else depth
    first, r_precision, map_at_r = np.full(len(relevant), depth), *np.zeros((2, len(relevant)))
    found = QueryMeasures(relevant, first, r_precision, map_at_r, depth, depth == most)
    blocks = -(-len(answerable) * deepest // MAX_NEIGHBOURS)
    size = -(-len(answerable) // blocks)
    for start in range(0, len(answerable), size):
        rows = answerable[start : start + size]
        index = _neighbours(given, rows, deepest, score_fn, size)
        match = given.gallery_classes[index] == given.classes[rows, None]
        hit = match[:, :depth]
        found.first[rows] = np.where(hit.any(axis=1), hit.argmax(axis=1), depth)
        if within_class:
            match &= np.arange(deepest) < relevant[rows, None]
            precision = np.cumsum(match, axis=1) / np.arange(1, deepest + 1)
            found.r_precision[rows] = match.sum(axis=1) / relevant[rows]
            found.map_at_r[rows] = np.sum(precision * match, axis=1) / relevant[rows]
    return found


def _neighbours(
    given: _Given, rows: Int[np.ndarray, " m"], k: int, score_fn: ScoreFn | None, size: int
) -> Int[np.ndarray, "m k"]:
    """The k nearest gallery images of some queries; fewer queries than `size` are filled up to it."""
    queries = given.queries
    if size != len(queries) or not np.array_equal(rows, np.arange(size)):
        queries = queries[np.append(rows, np.repeat(rows[:1], size - len(rows)))]
    index = np.asarray(nearest(queries, given.gallery, k + given.leave_out, score_fn)[1])[: len(rows)]
    if given.leave_out:
        # A stable sort moves the query itself to the end, and the end, itself or not, is cut.
        order = np.argsort(index == rows[:, None], axis=1, kind="stable")
        index = np.take_along_axis(index, order, axis=1)[:, :-1]
    return index


def nearest_others(
    embeddings: Float[AnyArray, "n d"], rows: Int[np.ndarray, " m"], k: int
) -> Int[np.ndarray, "m k"]:
    """The k nearest other images of some of the images, by distance."""
    x, classes = as_rows("embeddings", embeddings), np.zeros(len(embeddings), int)
    return _neighbours(_Given(x, x, classes, classes, leave_out=True), rows, k, None, len(rows))


class Measures(NamedTuple):
    """The means over the answerable queries."""

    recall_at_k: dict[int, float]
    r_precision: float
    map_at_r: float
    queries: int
    left_out: int  # queries whose class the gallery does not hold


def summarize(found: QueryMeasures, ks: Sequence[int] = ()) -> Measures:
    """The means over the answerable queries; a K beyond the gallery means all of it.

    Raises:
        ValueError: a K is beyond the depth that was searched.
    """
    if ks and max(ks) > found.depth and not found.whole:
        raise ValueError(f"ks must be at most the depth of the measures, {found.depth}, got {max(ks)}")
    answerable = found.relevant > 0
    first = found.first[answerable]
    recall = {k: float((first < k).mean()) for k in ks}
    r_precision, map_at_r = (float(x[answerable].mean()) for x in (found.r_precision, found.map_at_r))
    return Measures(recall, r_precision, map_at_r, len(first), len(answerable) - len(first))


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
    """The share of queries that have an image of their class among their K nearest.

    A query whose class the gallery does not hold cannot be answered: it is left out, and a warning says how
    many are.

    Args:
        embeddings: [n, d] queries.
        labels: [n] their classes, any integers.
        ks: the depths K; a K beyond the gallery means all of it.
        gallery: [m, d]; None = the queries, each of them itself left out by its index.
        gallery_labels: [m] classes, given with the gallery.
        score_fn: see `nearest`; the default ranks by Euclidean distance.

    Returns:
        {K: share in 0..1}.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, there is no query or none that
            can be answered, or a K is no integer of at least 1.

    Source: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011, in
    the form of Oh Song et al., CVPR 2016, section 6.
    """
    whole = isinstance(ks, Collection) and all(
        isinstance(k, int | np.integer) and not isinstance(k, bool) for k in ks
    )
    if not whole or not len(ks) or min(ks) < 1:
        raise ValueError(f"ks must hold integers of at least 1, got {ks}")
    given = embeddings, labels, int(max(ks)), gallery, gallery_labels, score_fn
    found = query_measures(*given, within_class=False)
    return summarize(_warn_left_out("recall_at_k", found), ks).recall_at_k


def map_at_r(
    embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], score_fn: ScoreFn | None = None
) -> float:
    """Mean average precision at R, each query against all the others.

        mean over queries of  1/R sum_{i=1..R} P(i) [the i-th nearest is of the query's class]

    with R the number of other images of the class and P(i) the precision among the first i.
    Queries that are alone in their class are left out, and a warning says how many are.

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
        ValueError: as `map_at_r`.

    Source: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2.
    """
    found = query_measures(embeddings, labels, score_fn=score_fn)
    return summarize(_warn_left_out("r_precision", found)).r_precision


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
        ValueError: shapes or lengths do not fit, an embedding is not finite, or there is none.

    Source: Oh Song et al., CVPR 2016, section 6; clustering and measure are scikit-learn's.
    """
    from sklearn.cluster import KMeans  # slow to import, and needed here only
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import normalized_mutual_info_score

    x = np.asarray(as_rows("embeddings", embeddings), np.float64)  # k-means expands its squared distances
    if not len(x):
        raise ValueError("embeddings must hold at least one image")
    x = np.ldexp(x, -int(np.frexp(np.abs(x).max(initial=0))[1]))
    codes = np.asarray(as_labels("labels", labels, len(x)))
    with warnings.catch_warnings():
        # Fewer distinct images than classes make fewer clusters, which is what is measured.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(len(np.unique(codes)), n_init=1, random_state=seed).fit_predict(x)
    return float(normalized_mutual_info_score(codes, clusters))
