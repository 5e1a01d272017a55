"""Measures of each query of a ranking: first match, R-precision, MAP@R; and their means.

The ranking is by Euclidean distance, by a score, or by distance with its first images re-ranked by a score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from pddm_jax.checks import as_count, as_labels, as_rows
from pddm_jax.evaluate.rerank import by_score
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.types import AnyArray

MAX_NEIGHBORS = 2**21
"""Neighbors that are held at a time: queries times the depth of their ranking."""


class QueryMeasures(NamedTuple):
    """The measures of each query. It is answerable if the gallery holds an image of its class."""

    relevant: Int[np.ndarray, " n"]  # images of its class in the gallery, without the query itself
    first: Int[np.ndarray, " n"]  # rank of the first of them, from 0; `depth` where it is deeper
    r_precision: Float[np.ndarray, " n"]
    map_at_r: Float[np.ndarray, " n"]
    depth: int  # ranks searched for the first image of the class
    whole: bool  # whether they are the whole gallery


@dataclass(frozen=True)
class _Ranking:
    """Queries, gallery, the class codes of both, and how the gallery is ranked."""

    queries: Float[AnyArray, "n d"]
    gallery: Float[AnyArray, "m d"]
    classes: Int[np.ndarray, " n"]
    gallery_classes: Int[np.ndarray, " m"]
    leave_out: bool  # whether the gallery is the queries, and a query is not its own neighbor
    score_fn: ScoreFn | None = None
    rerank: int | None = None  # how many Euclidean neighbors the score re-ranks; None = the score ranks all

    @property
    def size(self) -> int:
        """The number of images that are ranked for a query."""
        return len(self.gallery) - self.leave_out

    def relevant(self) -> Int[np.ndarray, " n"]:
        """The number of images of the class of each query in the gallery, without the query itself."""
        counts = np.bincount(self.gallery_classes, minlength=self.classes.max() + 1)
        return counts[self.classes] - self.leave_out

    def neighbors(self, rows: Int[np.ndarray, " m"], k: int, block: int) -> Int[np.ndarray, "m k"]:
        """The first k gallery images of some queries; fewer than `block` queries are padded to it."""
        count, rows = len(rows), np.append(rows, np.repeat(rows[:1], block - len(rows)))
        queries = self.queries if np.array_equal(rows, np.arange(len(self.queries))) else self.queries[rows]
        if self.score_fn is None or self.rerank is None:
            return self._nearest(queries, rows, k, self.score_fn)[:count]
        depth = min(self.rerank, self.size)
        index = self._nearest(queries, rows, max(k, depth), None)
        first = np.asarray(by_score(queries, self.gallery, index[:, :depth], self.score_fn)[1])
        return np.concatenate([first, index[:, depth:]], axis=1)[:count, :k]

    def _nearest(
        self, queries: AnyArray, rows: Int[np.ndarray, " q"], k: int, score_fn: ScoreFn | None
    ) -> Int[np.ndarray, "q k"]:
        """The k nearest of some queries, which are rows of the gallery if a query is to be left out."""
        index = np.asarray(nearest(queries, self.gallery, k + self.leave_out, score_fn)[1])
        if not self.leave_out:
            return index
        # A stable sort moves the query itself to the end; the last column, itself or not, is dropped.
        order = np.argsort(index == rows[:, None], axis=1, kind="stable")
        return np.take_along_axis(index, order, axis=1)[:, :-1]


def _checked(
    embeddings: AnyArray, labels: AnyArray, gallery: AnyArray | None, gallery_labels: AnyArray | None
) -> _Ranking:
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together")
    queries = as_rows("embeddings", embeddings)
    codes = np.asarray(as_labels("labels", _on_host(labels), len(queries)))
    if gallery is None or gallery_labels is None:
        return _Ranking(queries, queries, codes, codes, leave_out=True)
    gallery = as_rows("gallery", gallery, queries.shape[1])
    as_labels("gallery_labels", gallery_labels, len(gallery))
    # Numbered together, as Python objects, labels of two arrays compare whatever their width and sign.
    both = np.concatenate([np.asarray(x).astype(object) for x in (labels, gallery_labels)])
    codes = np.asarray(as_labels("labels", both, len(both)))
    return _Ranking(queries, gallery, codes[: len(queries)], codes[len(queries) :], leave_out=False)


def _on_host(labels: AnyArray) -> object:
    """Labels as `as_labels` numbers them."""
    return np.asarray(labels) if isinstance(labels, jax.Array) else labels


def _as_rerank(rerank: object, score_fn: ScoreFn | None) -> int | None:
    """The checked number of neighbors that are re-ranked; None = the score ranks the whole gallery."""
    if rerank is None:
        return None
    if score_fn is None:
        raise ValueError(f"rerank needs a score_fn, by which neighbors are ordered, got rerank={rerank!r}")
    return as_count("rerank", rerank, least=1)


def query_measures(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    depth: int = 1,
    gallery: Float[AnyArray, "m d"] | None = None,
    gallery_labels: Int[AnyArray, " m"] | None = None,
    score_fn: ScoreFn | None = None,
    *,
    within_class: bool = True,
    rerank: int | None = None,
) -> QueryMeasures:
    """The measures of each query, block by block of queries: memory is bounded for classes of any size.

    With `rerank`, the ranking of a query is: its `rerank` nearest images by Euclidean distance, ordered by
    score (ties to the lowest index), then all other images by distance. R-precision and MAP@R of a query
    with R > `rerank` images of its class follow from that whole ranking, to rank R.

    Args:
        embeddings: [n, d] queries.
        labels: [n] their classes, any integers.
        depth: ranks that are searched for the first image of the class.
        gallery: [m, d]; None = the queries; the query itself is left out by its index.
        gallery_labels: [m] classes, given with the gallery.
        score_fn: see `nearest`.
        within_class: rank to the size of the largest class; otherwise R-precision and MAP@R are 0.
        rerank: number of Euclidean neighbors that score_fn orders; None = score_fn ranks the whole gallery.

    Raises:
        ValueError: shapes or lengths do not fit, an embedding is not finite, one of gallery and
            gallery_labels is missing, there is no query or none that can be answered, or rerank is not an
            integer of at least 1 or is given without a score_fn.
    """
    given = _checked(embeddings, labels, gallery, gallery_labels)
    given = replace(given, score_fn=score_fn, rerank=_as_rerank(rerank, score_fn))
    if not len(given.classes):
        raise ValueError("embeddings must hold at least one query")
    relevant = given.relevant()
    answerable = np.flatnonzero(relevant)
    if not len(answerable):
        where = "another image of its class" if given.leave_out else "an image of its class in the gallery"
        raise ValueError(f"labels: none of {len(relevant)} queries has {where}, so nothing can be found")
    depth = min(depth, given.size)
    deepest = max(depth, int(relevant.max())) if within_class else depth
    first, r_precision, map_at_r = np.full(len(relevant), depth), *np.zeros((2, len(relevant)))
    found = QueryMeasures(relevant, first, r_precision, map_at_r, depth=depth, whole=depth == given.size)
    blocks = -(-len(answerable) * deepest // MAX_NEIGHBORS)
    size = -(-len(answerable) // blocks)
    for start in range(0, len(answerable), size):
        rows = answerable[start : start + size]
        index = given.neighbors(rows, deepest, size)
        match = given.gallery_classes[index] == given.classes[rows, None]
        hit = match[:, :depth]
        found.first[rows] = np.where(hit.any(axis=1), hit.argmax(axis=1), depth)
        if within_class:
            found.r_precision[rows], found.map_at_r[rows] = _within_class(match, relevant[rows])
    return found


def _within_class(
    match: Bool[np.ndarray, "q k"], relevant: Int[np.ndarray, " q"]
) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, " q"]]:
    """R-precision and MAP@R of some queries, from which images of their rankings are of their class."""
    match = match & (np.arange(match.shape[1]) < relevant[:, None])
    precision = np.cumsum(match, axis=1) / np.arange(1, match.shape[1] + 1)
    return match.sum(axis=1) / relevant, np.sum(precision * match, axis=1) / relevant


def nearest_others(
    embeddings: Float[AnyArray, "n d"], rows: Int[np.ndarray, " m"], k: int
) -> Int[np.ndarray, "m k"]:
    """The k nearest other images of some of the images, by distance."""
    x, classes = as_rows("embeddings", embeddings), np.zeros(len(embeddings), int)
    return _Ranking(x, x, classes, classes, leave_out=True).neighbors(rows, k, len(rows))


class Measures(NamedTuple):
    """The means over the answerable queries."""

    recall_at_k: dict[int, float]
    r_precision: float
    map_at_r: float
    queries: int
    left_out: int  # queries without an image of their class in the gallery


def summarize(found: QueryMeasures, ks: Sequence[int] = ()) -> Measures:
    """The means over the answerable queries; a K beyond the gallery means the whole gallery.

    Raises:
        ValueError: a K is beyond the depth that was searched.
    """
    if ks and max(ks) > found.depth and not found.whole:
        raise ValueError(f"ks must be at most the depth of the measures, {found.depth}, got {max(ks)}")
    answerable = found.relevant > 0
    first = found.first[answerable]
    recall = {k: float((first < k).mean()) for k in ks}
    r_precision, map_at_r = (float(x[answerable].mean()) for x in (found.r_precision, found.map_at_r))
    left_out = len(answerable) - len(first)
    return Measures(recall, r_precision, map_at_r, len(first), left_out=left_out)
