"""Classification with frozen embeddings: nearest class mean, k nearest neighbors, linear probe.

The training images of a closed set give the class means, the gallery of the nearest neighbors, and the
training set of the probe. Its test images are classified.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int
from ml_collections import FrozenConfigDict

from experiments.evaluations.base import Evaluation, EvaluationContext, Grid, Measured, Results, align
from pddm_jax import data
from pddm_jax.checks import check_choice
from pddm_jax.data import ClosedSet, Images, Split, closed_set_of
from pddm_jax.data.images import subset
from pddm_jax.data.streams import WAYS, stream
from pddm_jax.evaluate.top_k import ScoreFn
from pddm_jax.losses.objectives import OBJECTIVES
from pddm_jax.pddm.scoring import score_matrix
from pddm_jax.system.console import print_in_process_0
from pddm_jax.transfer import linear_probe
from pddm_jax.transfer.class_means import class_means
from pddm_jax.transfer.classification import KS, nearest_classes, per_class_accuracy, top_k_accuracy
from pddm_jax.transfer.hierarchy import Hierarchy, hierarchical_accuracy, read_hierarchy
from pddm_jax.transfer.knn import knn_classes

BLOCK = 2**16
"""Images embedded at a time if only the class means are needed."""

Ranked = Int[np.ndarray, "n k"]
Meeting = Callable[[Ranked, Int[np.ndarray, " n"]], float]
"""The hierarchical accuracy of ranked classes, given the labels."""


class Prepared(NamedTuple):
    """The closed set to classify, and the hierarchical accuracy if the config has a hierarchy."""

    closed: ClosedSet
    hierarchy: Meeting | None


def prepare(config: FrozenConfigDict, split: Split | ClosedSet) -> Prepared:
    """Read the task of a config; ValueError or OSError if a field or a file is wrong."""
    fields = config.transfer
    if fields.name is not None:
        check_choice("transfer.name", fields.name, data.CLOSED_SETS)
    elif not isinstance(split, ClosedSet):
        check_choice("data.name", config.data.name, data.CLOSED_SETS)
    closed = closed_set(config, split)
    path = fields.hierarchy
    return Prepared(closed, None if path is None else _hierarchy(Path(path), closed.train))


def closed_set(config: FrozenConfigDict, split: Split | ClosedSet) -> ClosedSet:
    """The closed set to classify: that of `transfer.name` if it is set, else that of the training data."""
    fields = config.transfer
    if fields.name is None and isinstance(split, ClosedSet):
        return split
    named = () if fields.name is None else ("name", "root", "classes", "ground_truth")
    return closed_set_of(config.data.to_dict() | {name: fields[name] for name in named}, config.seed)


def measure(context: EvaluationContext) -> Measured:
    """Classify the test images of a closed set by each method that the config enables."""
    config, fields = context.config, context.config.transfer
    closed, hierarchy = context.prepared
    known, test = closed.train, closed.test
    print_in_process_0(
        f"classifying {len(test.labels)} images of {len(known.class_names)} classes ({closed.description})"
    )
    gallery = None
    if fields.neighbours or fields.probe_steps:
        gallery = context.embed(known)
        means = class_means([(gallery, known.labels)])
    else:
        means = class_means(_blocks(context, known))
    own = fields.name is None and isinstance(context.split, ClosedSet)  # then closed is context.split
    embeddings = context.embed_test() if own else context.embed(test)
    scores: dict[str, ScoreFn | None] = {"means": None}
    if OBJECTIVES[config.objective.name].learns_score:
        unit = jax.device_get(context.state.params["unit"])
        scores["means, PDDM score"] = jax.tree_util.Partial(score_matrix, unit)

    found: dict[str, Any] = {}
    drawn = stream(config.seed, WAYS).permutation(means.classes)
    for ways in sorted({min(n, len(drawn)) for n in fields.ways} or {len(drawn)}):
        classes = np.sort(drawn[:ways])
        queries, train = np.isin(test.labels, classes), np.isin(known.labels, classes)
        x, y, of_classes = embeddings[queries], test.labels[queries], means.subset(classes)
        if not len(y):
            raise ValueError(
                f"transfer.ways: the {ways} classes drawn by seed have no test images; raise transfer.ways"
            )
        depth = min(max(KS), ways)
        ranked = {name: nearest_classes(x, of_classes, depth, score) for name, score in scores.items()}
        if gallery is not None:
            examples = gallery[train], known.labels[train]
            for k in fields.neighbours:
                votes = knn_classes(x, *examples, k=min(k, int(train.sum())))
                ranked[f"{k} neighbours"] = votes[:, None]
            if fields.probe_steps:
                probe = linear_probe.fit(*examples, fields.probe_decay, fields.probe_steps)
                ranked["linear probe"] = probe.top_classes(x, depth)
        found[str(ways)] = {name: _accuracies(top, y, hierarchy) for name, top in ranked.items()}
    protocol = {
        "classified": fields.name or config.data.name,
        "closed_set": closed.description,
        "known_images": len(known.labels),
        "classified_images": len(test.labels),
        "ways": "classes drawn by seed; a larger number of classes includes those of a smaller one",
        "transfer": fields.to_dict(),
    }
    return Measured(protocol, {"accuracy": found})


def _blocks(context: EvaluationContext, images: Images) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(images.labels), BLOCK):
        part = subset(images, np.arange(start, min(start + BLOCK, len(images.labels))))
        yield context.embed(part), part.labels


def _hierarchy(path: Path, known: Images) -> Meeting:
    """The function that computes hierarchical accuracy from a file that names the classes."""
    labels = np.array(sorted(known.class_names))
    hierarchy: Hierarchy = read_hierarchy(
        path.expanduser(), [known.class_names[n] for n in labels.tolist()]
    )
    return lambda ranked, y: hierarchical_accuracy(
        hierarchy, np.searchsorted(labels, ranked[:, 0]), np.searchsorted(labels, y)
    )


def _accuracies(ranked: Ranked, labels: Int[np.ndarray, " n"], hierarchy: Meeting | None) -> Results:
    """Flat top-K accuracy, mean and quartiles of per-class accuracy, and hierarchical accuracy."""
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


def grids(results: Results) -> list[Grid]:
    """Top-1 and top-5 in percent by number of classes, a row for each method."""
    accuracy = results["accuracy"]
    head = ["classified by", *(f"top-{k} of {ways}" for ways in accuracy for k in KS)]
    rows = []
    for name in next(iter(accuracy.values())):
        shares = [of[name]["flat"].get(str(k)) for of in accuracy.values() for k in KS]
        rows.append([name, *("-" if share is None else f"{100 * share:.1f}" for share in shares)])
    return [[head, *rows]]


def table(results: Results) -> str:
    """The results of a run as text."""
    protocol = results["protocol"]
    published = protocol["transfer"]["published"]
    return (
        f"{results['experiment']}: {protocol['objective']['name']} on {protocol['data']}, seed "
        f"{protocol['seed']}; {protocol['classified_images']} images of {protocol['classified']}; "
        f"{results['steps']} steps in {results['seconds']} s\n{align(*grids(results))}"
        + (f"\npublished: {published}" if published else "")
    )


def columns(results: Results) -> dict[str, float | None]:
    """Top-1 by class means for each number of classes; other measures for the largest number."""
    accuracy = results["accuracy"]
    found = {f"top-1 of {ways}": of["means"]["flat"]["1"] for ways, of in reversed(accuracy.items())}
    most, last = list(accuracy.items())[-1]
    found[f"top-5 of {most}"] = last["means"]["flat"].get("5")
    score = last.get("means, PDDM score", {"flat": {}})["flat"]
    found |= {f"top-{k}, PDDM score": score.get(str(k)) for k in KS}
    others = [name for name in last if not name.startswith("means")]
    return found | {f"top-1, {name}": last[name]["flat"]["1"] for name in others}


EVALUATION = Evaluation(
    "transfer", measure, table, grids, columns, prepare, closed_sets=True, fields="transfer"
)
