"""`run(config, workdir)` trains, evaluates and leaves everything in workdir."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from experiments import plots
from experiments.check_config import accepted, check_machine, warnings
from experiments.recipe import Recipe, make_recipe, objective_fields
from experiments.results import Results
from experiments.resuming import check_same_run, finished, mend_config
from experiments.training_run import Trained, train
from pddm_jax import data
from pddm_jax.data import ClosedSet, Images, Parts, Split, load_parts
from pddm_jax.data.transforms import AUGMENT
from pddm_jax.losses.objectives import make_objective
from pddm_jax.system import signals
from pddm_jax.system.cli import check_folder
from pddm_jax.system.console import say
from pddm_jax.system.files import write_sealed
from pddm_jax.system.lock import Lock
from pddm_jax.train import warm_start
from pddm_jax.train.checkpoint import Preempted
from pddm_jax.train.diagnosis import total_without
from pddm_jax.train.provenance import digest, digest_of_images, versions
from pddm_jax.train.state import TrainState
from pddm_jax.train.writer import Row


class Learned(NamedTuple):
    """A trained network, and the data that it is measured by."""

    config: FrozenConfigDict
    workdir: Path
    split: Split | ClosedSet
    train: Images  # what it was trained on
    seen: Images | None  # images of the same classes that it was not trained on
    state: TrainState
    embed: Callable[[Images], np.ndarray]
    beside: Any  # what the evaluation made ready


class Evaluation(NamedTuple):
    """What an experiment finds out of a trained network.

    Every process calls `measure`; files are for process 0 alone to write.
    """

    name: str
    measure: Callable[[Learned], tuple[Results, Results]]  # what the protocol says of it; what was found
    table: Callable[[Results], str]  # the results of a run as text
    columns: Callable[[Results], dict[str, float | None]]  # what objectives are compared by, best first
    # Reads before training what is needed beside the network, so that what is wrong in it is told at once.
    ready: Callable[[FrozenConfigDict, Split | ClosedSet], Any] = lambda config, split: None
    closed_sets: bool = False  # whether it is for networks that were trained on all classes, too
    fields: str | None = None  # the group of the config that it reads


def run(config: ConfigDict, workdir: Path, experiment: str, evaluation: Evaluation) -> Results:
    """Train and evaluate, or go on where a run in `workdir` was stopped.

    With several processes, all of them call it, with one workdir that all can read.

    Returns:
        The results, as in results.json.

    Raises:
        ValueError: the config is wrong, or workdir holds a run of another config or is in use.
        FloatingPointError: training diverged; the last good checkpoint is kept.
        NotWritten: there is no space, or workdir cannot be written; the last whole checkpoint is kept.
        Preempted: SIGTERM or SIGHUP came, and the state is saved.
    """
    config = check(config, workdir, evaluation)
    readers = evaluation.table, evaluation.columns
    results = finished(workdir, config, evaluation.name, readers)
    if results is None:
        with Lock(workdir, "--workdir"), ExitStack() as stack:
            check_same_run(workdir, config)  # what the last one to hold the lock has left
            results = finished(workdir, config, evaluation.name, readers)
            if results is None:
                return _run(config, workdir, experiment, evaluation, stack)
    if jax.process_index() == 0:
        mend_config(workdir)
    say(f"{workdir} holds a finished run.")
    return results


def _run(
    config: FrozenConfigDict, workdir: Path, experiment: str, evaluation: Evaluation, stack: ExitStack
) -> Results:
    """Train and evaluate in a workdir that is ours alone; `stack` ends when all is written."""
    package_versions, recipe = versions(), make_recipe(config)
    warm_start.check_file(config)
    parts = load_parts(config.data.to_dict(), closed_set=evaluation.closed_sets, seed=config.seed)
    train_sha256 = digest_of_images(parts.split.train)
    warm_start.check_unseen(recipe.pretrained, config.data.name, parts.split.description, train_sha256)
    prepared = evaluation.ready(config, parts.split)
    p, k = config.data.classes_per_batch, config.data.images_per_class
    data.PKSampler(parts.train.labels, p, k, range(1), config.seed)  # raises if there are too few classes
    _announce(config, experiment, recipe, parts)
    try:
        trained = train(config, workdir, recipe, parts.train, parts.evaluated, train_sha256)
    except Preempted as error:
        say(f"ended by {error.name}: all is saved, and the same command goes on from there")
        raise
    stack.enter_context(signals.at_once("all is saved, and the same command measures it", 0))
    state, embed = trained.state, partial(trained.embed, trained.state)
    learned = Learned(config, workdir, parts.split, parts.train, parts.seen, state, embed, prepared)
    rule, found = evaluation.measure(learned)
    results = {
        "experiment": experiment,
        "evaluation": evaluation.name,
        "protocol": _protocol(config, recipe, parts, trained, rule) | {"train_sha256": train_sha256},
        **found,
        **_training_results(config, trained.rows),
        "params_sha256": digest(state),
        "versions": package_versions,
    }
    if jax.process_index() == 0:
        title = f"{config.objective.name} on {config.data.name}, seed {config.seed}"
        plots.convergence({title: [plots.curve(trained.rows)]}, title, workdir / "convergence.png")
        write_sealed(workdir / "results.json", results)
    return results


def _announce(config: FrozenConfigDict, experiment: str, recipe: Recipe, parts: Parts) -> None:
    """Say what is trained, on which images, and what is odd about the config."""
    say(
        f"{experiment}: {config.objective.name} on {config.data.name}, seed {config.seed}; "
        f"{config.train.steps} steps on {len(parts.train.labels)} images of "
        f"{len(parts.train.class_names)} classes ({parts.split.description})"
    )
    for warning in warnings(config):
        say(f"warning: {warning}")
    if recipe.pretrained:
        say(f"weights of {warm_start.describe(recipe.pretrained)}")


def _protocol(
    config: FrozenConfigDict, recipe: Recipe, parts: Parts, trained: Trained, rule: Results
) -> Results:
    """What the results were measured by: data, split, training and checkpoint."""
    images = {"train": parts.train, "test": parts.split.test}
    if config.data.val_class_fraction:
        images["validation"] = parts.evaluated
    if parts.seen:
        images["seen_test"] = parts.seen
    chosen_by = "best by validation" if config.data.val_class_fraction else "last"
    return {
        "data": config.data.name,
        "split": parts.split.description,
        "classes": {name: len(part.class_names) for name, part in images.items()},
        "images": {name: len(part.labels) for name, part in images.items()},
        "image_shape": list(trained.image_shape),
        "crop": config.data.crop,
        **rule,
        "checkpoint": f"step {int(trained.state.step)}, {chosen_by}",
        "transform": {name: config.data[name] for name in ("augment", *AUGMENT[config.data.augment])},
        "batch": {name: config.data[name] for name in ("classes_per_batch", "images_per_class")},
        "network": config.network.to_dict() | {"pretrained": recipe.pretrained},
        "objective": recipe.objective,
        "optimizer": config.optimizer.to_dict(),
        "seed": config.seed,
    }


def _training_results(config: FrozenConfigDict, rows: list[Row]) -> Results:
    """What is told of the training itself."""
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return {
        "batches_without_quadruplets": total_without(rows),
        "steps": config.train.steps,
        "seconds": rows[-1]["seconds"],
        "images_per_second": statistics.median(rates),
    }


def check(config: ConfigDict, workdir: Path, evaluation: Evaluation) -> FrozenConfigDict:
    """The config as a run takes it, checked as far as is known before data is read.

    Raises:
        ValueError: a field is wrong, or workdir holds a run of another config or evaluation.
        OSError: a file that a field names is not there, or workdir cannot be written.
    """
    checked = accepted(config)
    if evaluation.fields is not None and evaluation.fields not in checked:
        raise ValueError(
            f"--config: evaluation {evaluation.name!r} needs a config with the fields of "
            f"{evaluation.fields!r}; this one has {', '.join(checked)}"
        )
    check_folder("--workdir", workdir, writes=False)  # a run that is finished is only shown
    check_same_run(workdir, checked)
    if finished(workdir, checked, evaluation.name) is None:
        check_folder("--workdir", workdir)
        check_machine(checked, jax.device_count(), jax.process_count())
        make_objective(checked.objective.name, **objective_fields(checked))
    return checked
