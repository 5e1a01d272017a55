"""Retrieval of unseen classes: Recall@K, MAP@R and R-precision, by distance and by PDDM score."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from experiments import plots
from experiments.evaluations.base import Evaluation, EvaluationContext, Grid, Measured, Results, align
from pddm_jax.data import ClosedSet, Split
from pddm_jax.data.images import subset
from pddm_jax.evaluate import metrics
from pddm_jax.losses.objectives import OBJECTIVES
from pddm_jax.pddm.scoring import score_matrix, score_rows
from pddm_jax.report.retrieval import MOST_SEARCHED, retrieval_fields
from pddm_jax.report.sample import Embedded, sample_classes
from pddm_jax.system.console import print_in_process_0

ALL = "all"
"""`pddm_ranking` of results whose PDDM ranking orders all images by score."""


def prepare(config: FrozenConfigDict, split: Split | ClosedSet) -> None:
    """Raise a ValueError if no test class has two images, since then no query has a match."""
    if not (np.unique(split.test.labels, return_counts=True)[1] > 1).any():
        raise ValueError(
            f"data: no test class has two images (found {len(split.test.labels)} images, each of another "
            "class), so no query has a match; add images to the test classes"
        )


def measure(context: EvaluationContext) -> Measured:
    """Rank the other test images for each test image, and write gallery.png."""
    config, test = context.config, context.split.test
    print_in_process_0(f"ranking {len(test.labels)} images of {len(test.class_names)} unseen classes")
    embeddings, depth = context.embed_test(), max(metrics.KS)
    found = {"euclidean": metrics.query_measures(embeddings, test.labels, depth)}
    unit = None
    if OBJECTIVES[config.objective.name].learns_score:
        rerank = config.train.pddm_rerank_depth or None
        unit = jax.device_get(context.state.params["unit"])
        score = jax.tree_util.Partial(score_rows if rerank else score_matrix, unit)
        found["pddm"] = metrics.query_measures(
            embeddings, test.labels, depth, score_fn=score, rerank=rerank
        )
    nmi = metrics.nmi(embeddings, test.labels, config.seed) if config.train.nmi else None
    train = subset(context.train, sample_classes(context.train.labels, MOST_SEARCHED, config.seed))
    embedded = Embedded(test, embeddings), found["euclidean"], Embedded(train, context.embed(train))
    if jax.process_index() == 0:
        plots.gallery(test, embeddings, found["euclidean"], config.seed, context.workdir / "gallery.png")
    summaries = {name: metrics.summarize(ranking, metrics.KS) for name, ranking in found.items()}
    queries, left_out = summaries["euclidean"].queries, summaries["euclidean"].left_out
    protocol: Results = {
        "gallery": "all test images except the query",
        "queries": queries,
        "queries_left_out": left_out,
        **pddm_ranking(config),
    }
    report = partial(retrieval_fields, *embedded, unit, config.seed)
    return Measured(protocol, measures(summaries) | {"nmi": nmi}, report)


def pddm_ranking(config: FrozenConfigDict) -> Results:
    """The field `pddm_ranking` of the protocol; its value is None if no PDDM score is trained."""
    depth = config.train.pddm_rerank_depth
    ranking = f"the {depth} nearest images of each query ordered by score, then the others by distance"
    learns_score = OBJECTIVES[config.objective.name].learns_score
    return {"pddm_ranking": (ranking if depth else ALL) if learns_score else None}


def measures(summaries: dict[str, metrics.Measures]) -> Results:
    """Recall@K, MAP@R and R-precision, of each ranking; None for the PDDM score if it is not trained."""

    def each(measure: Callable[[metrics.Measures], Any]) -> dict[str, Any]:
        names = "euclidean", "pddm"
        return {name: measure(summaries[name]) if name in summaries else None for name in names}

    return {
        "recall_at_k": each(lambda m: {str(k): recall for k, recall in m.recall_at_k.items()}),
        "map_at_r": each(lambda m: m.map_at_r),
        "r_precision": each(lambda m: m.r_precision),
    }


def grids(results: Results) -> list[Grid]:
    """Recall@K, R-precision and MAP@R in percent, a row for each ranking."""
    recall, map_at_r, r_precision = (results[name] for name in ("recall_at_k", "map_at_r", "r_precision"))
    head = ["ranked by", *(f"R@{k}" for k in recall["euclidean"]), "R-precision", "MAP@R"]
    rows = [
        [name, *(f"{100 * x:.1f}" for x in (*recall[name].values(), r_precision[name], map_at_r[name]))]
        for name in recall
        if recall[name]
    ]
    return [[head, *rows]]


def table(results: Results) -> str:
    """The results of a run as text."""
    nmi = "" if results["nmi"] is None else f"\nNMI of the embeddings {100 * results['nmi']:.1f}"
    objective, protocol = results["protocol"]["objective"]["name"], results["protocol"]
    count = protocol.get("queries_left_out", 0)
    left_out = f"\n{count} queries left out: no other image of their class" if count else ""
    notes = _ranking_note(results) + left_out + nmi
    return (
        f"{results['experiment']}: {objective} on {protocol['data']}, seed {protocol['seed']}; "
        f"{protocol['images']['test']} images of {protocol['classes']['test']} unseen classes; "
        f"{results['steps']} steps in {results['seconds']} s\n{align(*grids(results))}{notes}"
    )


def _ranking_note(results: Results) -> str:
    """A line on the PDDM ranking, where that is not what its name says."""
    if not results["recall_at_k"]["pddm"]:
        return ""
    if "pddm_ranking" not in results["protocol"]:
        return (
            "\npddm: all images ordered by score, as in earlier versions; to apply "
            "train.pddm_rerank_depth, delete results.json and repeat the command"
        )
    ranking = results["protocol"]["pddm_ranking"]
    return (
        ""
        if ranking == ALL
        else f"\npddm: {ranking} (train.pddm_rerank_depth=0 orders all images by score)"
    )


def columns(results: Results) -> dict[str, float | None]:
    """Recall@1 and MAP@R, by distance and by PDDM score."""
    recall, map_at_r = results["recall_at_k"], results["map_at_r"]
    return {
        "Recall@1": recall["euclidean"]["1"],
        "Recall@1, PDDM score": (recall["pddm"] or {}).get("1"),
        "MAP@R": map_at_r["euclidean"],
        "MAP@R, PDDM score": map_at_r["pddm"],
    }


EVALUATION = Evaluation("retrieval", measure, table, grids, columns, prepare, protocol=pddm_ranking)
