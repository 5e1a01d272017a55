"""How well frozen embeddings tell classes apart: by class means, by neighbours, by a linear probe.

The classes are those of a closed set: its images for training make the means, the gallery of the neighbours
and the probe; its images for test are named.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import FrozenConfigDict

from experiments.evaluations.base import Evaluation, EvaluationContext, Results, align
from pddm_jax import data
from pddm_jax.checks import check_choice
from pddm_jax.data import ClosedSet, Images, Split, closed_set_of
from pddm_jax.data.images import subset
from pddm_jax.data.streams import WAYS, stream
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.losses.objectives import OBJECTIVES
from pddm_jax.pddm.scoring import score_matrix
from pddm_jax.system.console import say
from pddm_jax.transfer import linear_probe
from pddm_jax.transfer.class_means import class_means
from pddm_jax.transfer.classification import KS, nearest_classes, per_class_accuracy, top_k_accuracy
from pddm_jax.transfer.hierarchy import Hierarchy, hierarchical_accuracy, read_hierarchy
from pddm_jax.transfer.knn import knn_classes

BLOCK = 2**16
"""Images whose embeddings are held at a time, where they are summed alone."""

Ranked = Int[np.ndarray, "n k"]
Meeting = Callable[[Ranked, Int[np.ndarray, " n"]], float]


class Task(NamedTuple):
    """What is classified, and how wrong a wrong class is, where that is known."""

    closed: ClosedSet
    hierarchy: Meeting | None


def prepare(config: FrozenConfigDict, split: Split | ClosedSet) -> Task:
    """The task of a config; ValueError or OSError for what is wrong with its files, or with a field."""
    fields = config.transfer
    if fields.name is not None:
        check_choice("transfer.name", fields.name, data.CLOSED_SETS)
    elif not isinstance(split, ClosedSet):
        check_choice("data.name", config.data.name, data.CLOSED_SETS)
    closed = closed_set(config, split)
    path = fields.hierarchy
    return Task(closed, None if path is None else _hierarchy(Path(path), closed.train))


def closed_set(config: FrozenConfigDict, split: Split | ClosedSet) -> ClosedSet:
    """What is classified: the closed set that is trained on, or the one that the config names."""
    fields = config.transfer
    if fields.name is None and isinstance(split, ClosedSet):
        return split
    named = () if fields.name is None else ("name", "root", "classes", "ground_truth")
    return closed_set_of(config.data.to_dict() | {name: fields[name] for name in named}, config.seed)


def measure(context: EvaluationContext) -> tuple[Results, Results]:
    """Name the test images of a closed set in as many ways as the config asks for."""
    config, fields = context.config, context.config.transfer
    closed, hierarchy = context.prepared
    known, test = closed.train, closed.test
    say(f"classifying {len(test.labels)} images of {len(known.class_names)} classes ({closed.description})")
    gallery = None
    if fields.neighbours or fields.probe_steps:
        gallery = context.embed(known)
        means = class_means([(gallery, known.labels)])
    else:
        means = class_means(_blocks(context, known))
    embeddings = context.embed(test)
    scores: dict[str, ScoreFn | None] = {"means": None}
    if OBJECTIVES[config.objective.name].learns_score:
        unit = jax.device_get(context.state.params["unit"])
        scores["means, PDDM score"] = jax.tree_util.Partial(score_matrix, unit)

    found: dict[str, Any] = {}
    drawn = stream(config.seed, WAYS).permutation(means.classes)
    for ways in sorted({min(n, len(drawn)) for n in fields.ways} or {len(drawn)}):
        classes = np.sort(drawn[:ways])
        asked, there = np.isin(test.labels, classes), np.isin(known.labels, classes)
        x, y, of_classes = embeddings[asked], test.labels[asked], means.subset(classes)
        if not len(y):
            raise ValueError(f"transfer.ways: of {ways} classes there are no test images")
        depth = min(max(KS), ways)
        ranked = {name: nearest_classes(x, of_classes, depth, score) for name, score in scores.items()}
        if gallery is not None:
            near = gallery[there], known.labels[there]
            for k in fields.neighbours:
                votes = knn_classes(x, *near, k=min(k, int(there.sum())))
                ranked[f"{k} neighbours"] = votes[:, None]
            if fields.probe_steps:
                probe = linear_probe.fit(*near, fields.probe_decay, fields.probe_steps)
                ranked["linear probe"] = probe.top_classes(x, depth)
        found[str(ways)] = {name: _accuracies(of, y, hierarchy) for name, of in ranked.items()}
    rule = {
        "classified": fields.name or config.data.name,
        "closed_set": closed.description,
        "known_images": len(known.labels),
        "classified_images": len(test.labels),
        "ways": "classes drawn by seed, the fewer among the more",
        "transfer": fields.to_dict(),
    }
    return rule, {"accuracy": found}


def _blocks(context: EvaluationContext, images: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(images.labels), BLOCK):
        part = subset(images, np.arange(start, min(start + BLOCK, len(images.labels))))
        yield context.embed(part), part.labels


def _hierarchy(path: Path, known: Images) -> Meeting:
    """The hierarchical accuracy of rankings, by the classes' names."""
    labels = np.array(sorted(known.class_names))
    above: Hierarchy = read_hierarchy(path.expanduser(), [known.class_names[n] for n in labels.tolist()])
    return lambda ranked, y: hierarchical_accuracy(
        above, np.searchsorted(labels, ranked[:, 0]), np.searchsorted(labels, y)
    )


def _accuracies(ranked: Ranked, labels: Int[np.ndarray, " n"], hierarchy: Meeting | None) -> Results:
    """Flat accuracy, the mean and quartiles of the classes' own, and the hierarchical one."""
    of_classes = per_class_accuracy(ranked, labels)[1]
    ks = [k for k in KS if k <= ranked.shape[1]]
    return {
        "flat": {str(k): share for k, share in top_k_accuracy(ranked, labels, ks).items()},
        "per_class": {
            "mean": float(of_classes.mean()),
            "quartiles": np.quantile(of_classes, [0, 0.25, 0.5, 0.75, 1]).tolist(),
        },
        "hierarchical": None if hierarchy is None else hierarchy(ranked, labels),
    }


def table(results: Results) -> str:
    """The results of a run as text: a row a way of naming, top-1 and top-5 of so many classes."""
    accuracy, protocol = results["accuracy"], results["protocol"]
    head = ["named by", *(f"top-{k} of {ways}" for ways in accuracy for k in KS)]
    rows = []
    for name in next(iter(accuracy.values())):
        shares = [of[name]["flat"].get(str(k)) for of in accuracy.values() for k in KS]
        rows.append([name, *("-" if share is None else f"{100 * share:.1f}" for share in shares)])
    published = protocol["transfer"]["published"]
    return (
        f"{results['experiment']}: {protocol['objective']['name']} on {protocol['data']}, seed "
        f"{protocol['seed']}; {protocol['classified_images']} images of {protocol['classified']}; "
        f"{results['steps']} steps in {results['seconds']} s\n{align([head, *rows])}"
        + (f"\npublished: {published}" if published else "")
    )


def columns(results: Results) -> dict[str, float | None]:
    """Top-1 of every number of classes by class means, and of the most classes all else."""
    accuracy = results["accuracy"]
    found = {f"top-1 of {ways}": of["means"]["flat"]["1"] for ways, of in reversed(accuracy.items())}
    most, last = list(accuracy.items())[-1]
    found[f"top-5 of {most}"] = last["means"]["flat"].get("5")
    score = last.get("means, PDDM score", {"flat": {}})["flat"]
    found |= {f"top-{k}, PDDM score": score.get(str(k)) for k in KS}
    others = [name for name in last if not name.startswith("means")]
    return found | {f"top-1, {name}": last[name]["flat"]["1"] for name in others}


EVALUATION = Evaluation("transfer", measure, table, columns, prepare, closed_sets=True, fields="transfer")
