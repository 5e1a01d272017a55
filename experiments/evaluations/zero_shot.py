"""Zero-shot classification: images of unseen classes, ranked by descriptions of the classes."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import FrozenConfigDict

from experiments import plots
from experiments.evaluations.base import Evaluation, EvaluationContext, Grid, Measured, Results, align
from pddm_jax.data import ClosedSet, Split
from pddm_jax.data.glyphs import character_names
from pddm_jax.system.console import print_in_process_0
from pddm_jax.transfer import zero_shot
from pddm_jax.transfer.descriptions import read_descriptions, word_descriptions
from pddm_jax.transfer.zero_shot_metrics import KS, harmonic_mean, hit_at_k, ranks, top_classes

Vectors = Float[np.ndarray, "c a"]
Labels = Int[np.ndarray, " c"]


def class_names(config: FrozenConfigDict, split: Split | ClosedSet) -> dict[int, str]:
    """The name of each class by ascending label; for glyphs, the Unicode names of its characters."""
    names = split.train.class_names | split.test.class_names
    if config.data.name == "glyphs":
        names = {label: " / ".join(character_names(name)) for label, name in names.items()}
    return dict(sorted(names.items()))


def describe(config: FrozenConfigDict, split: Split | ClosedSet) -> tuple[Labels, Vectors]:
    """The labels of all classes, ascending, and descriptions from a file or from the words of names."""
    names, fields = class_names(config, split), config.zero_shot
    if fields.descriptions is None:
        return np.array([*names]), word_descriptions([*names.values()])
    ids = None if fields.ids is None else Path(fields.ids).expanduser()
    path = Path(fields.descriptions).expanduser()
    return np.array([*names]), read_descriptions(path, [*names.values()], ids)


def prepare(config: FrozenConfigDict, split: Split | ClosedSet) -> tuple[Labels, Vectors]:
    """Read the descriptions of all classes; ValueError or OSError if a file or a field is wrong."""
    return describe(config, split)


def measure(context: EvaluationContext) -> Measured:
    """Fit maps on seen classes, rank the classes of test images by them, and write zero_shot.png."""
    config, train, test = context.config, context.train, context.split.test
    labels, vectors = context.prepared
    seen, unseen = (np.unique(part.labels) for part in (train, test))
    print_in_process_0(
        f"classifying {len(test.labels)} images of {len(unseen)} unseen classes; {len(seen)} are seen"
    )
    of_seen, of_unseen, of_both = (
        vectors[np.searchsorted(labels, part)] for part in (seen, unseen, np.union1d(seen, unseen))
    )
    maps = learn(config, context.embed(train), np.searchsorted(seen, train.labels), of_seen)
    embeddings, rows = context.embed_test(), np.searchsorted(unseen, test.labels)
    found = {name: ranks(semantic_map, embeddings, rows, of_unseen) for name, semantic_map in maps.items()}
    hits = {"chance": {str(k): min(k / len(unseen), 1.0) for k in KS}}
    if config.zero_shot.descriptions is None:
        hits["word frequency"] = shares(by_frequency(of_seen, of_unseen)[rows])
    hits |= {name: shares(of_classes) for name, of_classes in found.items()}

    generalised = None
    if context.seen:
        parts = {"seen": (context.embed(context.seen), context.seen.labels)}
        parts["unseen"] = embeddings, test.labels
        both, generalised = np.union1d(seen, unseen), {}
        for name, semantic_map in maps.items():
            of = {
                part: shares(ranks(semantic_map, x, np.searchsorted(both, y), of_both), y)
                for part, (x, y) in parts.items()
            }
            of["harmonic mean"] = {k: harmonic_mean(x, of["unseen"][k]) for k, x in of["seen"].items()}
            generalised[name] = of

    if jax.process_index() == 0:
        names = class_names(config, context.split)
        shown = plots.successes_and_failures(found["conse"], test.labels, config.seed)
        first = top_classes(maps["conse"], embeddings[shown], of_unseen, 5)
        plots.zero_shot_examples(
            test, shown, found["conse"], unseen[first], names, context.workdir / "zero_shot.png"
        )
    protocol = {
        "zero_shot": config.zero_shot.to_dict()
        | {"classes": {"seen": len(seen), "unseen": len(unseen)}, "attributes": vectors.shape[1]}
    }
    return Measured(protocol, {"hit_at_k": hits, "generalised": generalised})


def shares(found: np.ndarray, classes: np.ndarray | None = None) -> dict[str, float]:
    """Hit@K of ranks, by K as a string, as in JSON."""
    return {str(k): share for k, share in hit_at_k(found, classes=classes).items()}


def learn(
    config: FrozenConfigDict, embeddings: np.ndarray, rows: Labels, descriptions: Vectors
) -> dict[str, zero_shot.SemanticMap]:
    """Fit the maps from embeddings to descriptions: ConSE, DeViSE (`ranking`) and ridge regression."""
    fields, seen = config.zero_shot, (embeddings, rows, descriptions)
    return {
        "conse": zero_shot.conse(*seen, fields.conse_top, fields.conse_temperature),
        "ranking": zero_shot.ranking(
            *seen, fields.ranking_margin, fields.ranking_rate, fields.ranking_steps, config.seed
        ),
        "ridge": zero_shot.ridge(*seen, fields.ridge_weight),
    }


def by_frequency(seen: Vectors, unseen: Vectors) -> Labels:
    """A baseline that ranks unseen classes, for any image, by how many seen classes share their words."""
    has = unseen > 0
    frequency = has @ (seen > 0).sum(axis=0) / np.maximum(has.sum(axis=1), 1)
    return np.argsort(np.argsort(-frequency, kind="stable"))


def grids(results: Results) -> list[Grid]:
    """Hit@K in percent among the unseen classes, and if there are held-out images among all classes."""

    def rows(by_name: dict[str, dict[str, float]]) -> list[list[str]]:
        return [[name, *(f"{100 * x:.2f}" for x in of.values())] for name, of in by_name.items()]

    head = [f"Hit@{k}" for k in KS]
    found = [[["unseen classes", *head], *rows(results["hit_at_k"])]]
    if results["generalised"]:
        both = {
            f"{name}, {of}": hits
            for name, parts in results["generalised"].items()
            for of, hits in parts.items()
        }
        found.append([["all classes, mean by class", *head], *rows(both)])
    return found


def table(results: Results) -> str:
    """The results of a run as text."""
    protocol = results["protocol"]
    classes = protocol["zero_shot"]["classes"]
    aligned = "\n\n".join(map(align, grids(results)))
    text = (
        f"{results['experiment']}: {protocol['objective']['name']} on {protocol['data']}, seed "
        f"{protocol['seed']}; {protocol['images']['test']} images of {classes['unseen']} unseen classes, "
        f"{classes['seen']} seen; {results['steps']} steps in {results['seconds']} s\n{aligned}"
    )
    published = protocol["zero_shot"]["published"]
    return text + (f"\npublished: {published}" if published else "")


def columns(results: Results) -> dict[str, float | None]:
    """Hit@1 and Hit@5 of each map among unseen classes, and the harmonic mean of Hit@1 among all."""
    maps = [name for name in results["hit_at_k"] if name not in ("chance", "word frequency")]
    found: dict[str, float | None] = {}
    for name in maps:
        found |= {f"{name} Hit@{k}": results["hit_at_k"][name][str(k)] for k in (1, 5)}
    for name in maps:
        of = (results["generalised"] or {}).get(name)
        found[f"{name} harmonic mean"] = of and of["harmonic mean"]["1"]
    return found


EVALUATION = Evaluation("zero_shot", measure, table, grids, columns, prepare, fields="zero_shot")
