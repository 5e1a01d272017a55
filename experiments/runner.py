"""`run(config, workdir)` trains a network, evaluates it, and writes all files of the run to workdir."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from experiments import plots
from experiments.evaluations import EVALUATIONS
from experiments.evaluations.base import EvaluationContext, Results
from pddm_jax import data
from pddm_jax.config.check import accepted, check_machine, warnings
from pddm_jax.data.transforms import AUGMENT
from pddm_jax.report.write import write_run
from pddm_jax.sharding import data_mesh
from pddm_jax.system import signals
from pddm_jax.system.agreement import share_errors
from pddm_jax.system.cli import check_folder
from pddm_jax.system.console import print_in_process_0
from pddm_jax.system.errors import reason
from pddm_jax.system.files import NotWritten, write_sealed
from pddm_jax.system.lock import Lock
from pddm_jax.training import warm_start
from pddm_jax.training.diagnosis import total_without
from pddm_jax.training.provenance import digest, digest_of_images, versions
from pddm_jax.training.recipe import Recipe, make_recipe, without_weights
from pddm_jax.training.resume import check_same_run, finished, repair_config
from pddm_jax.training.setup import Training
from pddm_jax.training.trainer import FinishedTraining, train_or_save
from pddm_jax.training.writer import Row


def run(config: ConfigDict, workdir: Path, experiment: str) -> Results:
    """Train and evaluate, or resume the run in `workdir`.

    In a distributed run every process calls it, with the same workdir, which all can read.

    Returns:
        The results, as in results.json.

    Raises:
        ValueError: the config is wrong, or workdir holds a run of another config or is in use.
        FloatingPointError: training diverged; the last good checkpoint is kept.
        NotWritten: the disk is full, or workdir cannot be written; the last complete checkpoint is kept.
        Preempted: SIGTERM or SIGHUP was received, and the state is saved.
    """
    checked, results = validate(config, workdir)
    if results is None:
        with Lock(workdir, "--workdir"), ExitStack() as stack:
            _, results = validate(config, workdir)  # the previous holder may have started or finished it
            if results is None:
                return _train_and_evaluate(checked, workdir, experiment, stack)
    if jax.process_index() == 0:
        repair_config(workdir)
    print_in_process_0(f"{workdir} holds a finished run.")
    return results


def validate(config: ConfigDict, workdir: Path) -> tuple[FrozenConfigDict, Results | None]:
    """Check the config and the workdir before data is read.

    Returns:
        The accepted config; and the results of the finished run in workdir, or None if it must be trained
        or evaluated.

    Raises:
        ValueError: a field is wrong, or workdir holds a run of another config; and as `finished`.
        OSError: a file that a field names does not exist, or workdir cannot be written.
    """
    checked = accepted(config)
    evaluation = EVALUATIONS[checked.evaluation]
    if evaluation.fields is not None and evaluation.fields not in checked:
        raise ValueError(
            f"evaluation {evaluation.name!r} needs a config with the group {evaluation.fields!r}; found "
            f"only {', '.join(checked)}"
        )
    check_folder("--workdir", workdir, writes=False)  # a finished run is only read
    check_same_run(workdir, checked)
    readers, protocol = (evaluation.table, evaluation.columns), evaluation.protocol(checked)
    results = finished(workdir, checked, evaluation.name, readers, protocol=protocol)
    if results is None:
        check_folder("--workdir", workdir)
        check_machine(checked, jax.device_count(), jax.process_count())
        without_weights(checked)  # raises if a field is wrong
    return checked, results


def _train_and_evaluate(
    config: FrozenConfigDict, workdir: Path, experiment: str, stack: ExitStack
) -> Results:
    """Load data, build, fit, evaluate, write; signal handlers stay on `stack` until all is written."""
    evaluation, package_versions = EVALUATIONS[config.evaluation], versions()
    recipe = make_recipe(config)
    parts = data.load_parts(config.data.to_dict(), closed_set=evaluation.closed_sets, seed=config.seed)
    training = _build(config, recipe, parts)
    prepared = evaluation.prepare(config, parts.split)
    _announce(training, parts, experiment)
    trained = train_or_save(training, workdir)
    stack.enter_context(
        signals.exit_on_signal("all is saved; run the same command again to evaluate it", 0)
    )
    measured = evaluation.measure(_context(training, workdir, parts, trained, prepared))
    results = {
        "experiment": experiment,
        "evaluation": evaluation.name,
        "protocol": _protocol(training, parts, trained, measured.protocol),
        **measured.measures,
        **_training_results(config, trained.rows),
        "params_sha256": digest(trained.state),
        "versions": package_versions,
    }
    with share_errors():  # the others wait for process 0, which writes
        _write(workdir, trained, results, measured.report)
    return results


def _build(config: FrozenConfigDict, recipe: Recipe, parts: data.Parts) -> Training:
    """Set up the training; ValueError if the data does not fit the config."""
    train_sha256 = digest_of_images(parts.split.train)
    warm_start.check_no_test_leakage(
        recipe.pretrained, config.data.name, parts.split.description, train_sha256
    )
    p, k = config.data.classes_per_batch, config.data.images_per_class
    data.PKSampler(parts.train.labels, p, k, range(1), config.seed)  # raises if there are too few classes
    return Training(config, recipe, parts.train, parts.evaluated, train_sha256, data_mesh())


def _announce(training: Training, parts: data.Parts, experiment: str) -> None:
    """Print a summary of the run, warnings about its config, and the source of its initial weights."""
    config = training.config
    print_in_process_0(
        f"{experiment}: {config.objective.name} on {config.data.name}, seed {config.seed}; "
        f"{config.train.steps} steps on {len(parts.train.labels)} images of "
        f"{len(parts.train.class_names)} classes ({parts.split.description})"
    )
    for warning in warnings(config):
        print_in_process_0(f"warning: {warning}")
    if training.recipe.pretrained:
        print_in_process_0(
            f"training starts from the weights of {warm_start.describe_source(training.recipe.pretrained)}"
        )


def _context(
    training: Training, workdir: Path, parts: data.Parts, trained: FinishedTraining, prepared: Any
) -> EvaluationContext:
    """The trained network and the data to evaluate it on."""
    embed = partial(trained.embed, trained.state)
    embed_test = partial(embed, parts.split.test)
    if not training.validates:  # the test images were evaluated during training
        embed_test = partial(trained.embed.evaluated, trained.state)
    of_data = parts.split, parts.train, parts.seen
    return EvaluationContext(training.config, workdir, *of_data, trained.state, embed, embed_test, prepared)


def _protocol(
    training: Training, parts: data.Parts, trained: FinishedTraining, of_evaluation: Results
) -> Results:
    """The protocol of the results: data, split, training and checkpoint."""
    config, recipe = training.config, training.recipe
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
        "image_shape": list(training.image_shape),
        "crop": config.data.crop,
        **of_evaluation,
        "checkpoint": f"step {int(trained.state.step)}, {chosen_by}",
        "transform": {name: config.data[name] for name in ("augment", *AUGMENT[config.data.augment])},
        "batch": {name: config.data[name] for name in ("classes_per_batch", "images_per_class")},
        "network": config.network.to_dict() | {"pretrained": recipe.pretrained},
        "objective": recipe.objective,
        "optimizer": config.optimizer.to_dict(),
        "seed": config.seed,
        "train_sha256": training.train_sha256,
    }


def _training_results(config: FrozenConfigDict, rows: list[Row]) -> Results:
    """Steps, time and speed of the training."""
    rates = [row["images_per_second"] for row in rows if "images_per_second" in row]
    return {
        "batches_without_quadruplets": total_without(rows),
        "steps": config.train.steps,
        "seconds": rows[-1]["seconds"],
        "images_per_second": statistics.median(rates),
    }


def _write(
    workdir: Path, trained: FinishedTraining, results: Results, report: Callable[[], dict[str, Any]]
) -> None:
    """Write the convergence plot, the report, and then results.json, which marks a run as finished."""
    if jax.process_index() != 0:
        return
    protocol, evaluation = results["protocol"], EVALUATIONS[results["evaluation"]]
    title = f"{protocol['objective']['name']} on {protocol['data']}, seed {protocol['seed']}"
    plots.convergence({title: [plots.curve(trained.rows)]}, title, workdir / "convergence.png")
    tables = [("Test images, in percent", head, cells) for head, *cells in evaluation.grids(results)]
    try:
        fields = report() | {"text": evaluation.table(results)}
        write_run(workdir / "report.html", results, tables=tables, rows=trained.rows, fields=fields)
    except NotWritten:
        raise
    except Exception as error:  # the results are worth more than their report
        print_in_process_0(
            f"warning: report.html could not be written: {reason(error)}; the results are complete"
        )
    write_sealed(workdir / "results.json", results)
