"""The training of a run: resume from a checkpoint, train to the last step, record a step that diverges."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax

from pddm_jax.sharding import global_batches
from pddm_jax.system.console import print_in_process_0
from pddm_jax.training import rerun
from pddm_jax.training.checkpoint import Checkpoints, Preempted
from pddm_jax.training.diagnosis import Collapse, MiningCounts, counts_of_old
from pddm_jax.training.resume import is_due, new_run_hint, rows_of, stored_config, update_config
from pddm_jax.training.schedule import Schedule
from pddm_jax.training.setup import Embedder, Training
from pddm_jax.training.state import TrainState
from pddm_jax.training.step import Diverged, fit
from pddm_jax.training.writer import Row, RowsDigest, Writer, rows_digest


class FinishedTraining(NamedTuple):
    """The result of training."""

    state: TrainState  # at the last step, or at the best one by validation
    embed: Embedder
    rows: list[Row]


class Start(NamedTuple):
    """The state and the logs from which a run starts or resumes."""

    state: TrainState
    fields: dict[str, Any]  # the content of config.json
    known: RowsDigest | None  # the digest of the rows that metrics.jsonl must hold
    mining: Mapping[str, Any] | None  # counts of quadruplets since the last row


def resume(training: Training, workdir: Path, checkpoints: Checkpoints) -> Start:
    """Restore the newest intact checkpoint, or make the initial state if there is none.

    Raises:
        ValueError: the run in the workdir has other training images, or cannot be extended.
    """
    config, state = training.config, training.fresh_state()
    before = stored_config(workdir)
    _mark_last_unused(training, workdir, checkpoints, before)
    resumed = checkpoints.resume(state)
    state = training.pretrained(state) if resumed is None else resumed.state
    start, about = int(state.step), (resumed.about if resumed else None) or {}
    fields = json.loads(config.to_json()) | {
        "devices": training.mesh.size,
        "image_shape": training.image_shape,
        "classes": training.classes,
        "train_sha256": training.train_sha256,
    }
    if not start:
        return Start(state, fields, None, None)
    assert before is not None  # there are checkpoints
    if before["train_sha256"] != training.train_sha256:
        raise ValueError(
            f"{workdir} holds a run on training images that have changed since; choose another workdir"
        )
    here, there = training.mesh.size, before["devices"]
    other = f" on {here} devices, {there} before: results may differ because of rounding"
    print_in_process_0(f"{workdir}: resumes after step {start}{other if here != there else ''}")
    known = rows_of(rows_digest(about), fields["train"]) if about else None
    if jax.process_index() == 0:
        update_config(workdir, before, fields["train"])
    mining = about.get("mining") or counts_of_old(workdir / "mining.json", start)
    return Start(state, before | {"train": fields["train"]}, known, mining)


def _mark_last_unused(
    training: Training, workdir: Path, checkpoints: Checkpoints, before: Mapping[str, Any] | None
) -> None:
    """Rename the last checkpoint of a shorter run if the longer run does not evaluate at that step."""
    config, steps = training.config, training.steps
    end = before["train"]["steps"] if before else steps
    if end >= steps or not training.validates or is_due(end, config.train.eval_every, steps):
        return
    if not checkpoints.mark_unused(end):
        raise ValueError(
            f"{workdir} holds a run of {end} train.steps; a run of {steps} does not evaluate at "
            f"step {end}, and there is no earlier checkpoint to resume from (train.max_to_keep "
            f"{config.train.max_to_keep}): {new_run_hint(workdir, config)}"
        )


def _record(training: Training, workdir: Path, checkpoints: Checkpoints, diverged: Diverged) -> str:
    """Train again up to a step that diverged, record that step, and return a message for the error."""
    state, latest = training.fresh_state(), checkpoints.latest_step()
    if latest is None:
        state = training.pretrained(state)
    else:
        checkpoints.wait()
        state = checkpoints.restore(latest, state)
    start, step = int(state.step), diverged.step
    print_in_process_0(f"step {step} diverged: training again from step {start} to record it")
    with closing(training.batches(start)) as batches:
        state = rerun.run_to(step, state, training.train_step, global_batches(batches, training.mesh))
    whole = training.whole_batch(step)
    return rerun.record(workdir, training.config, diverged, state, whole, training.classes)


def train_or_save(training: Training, workdir: Path) -> FinishedTraining:
    """`train`, which says so if a signal ended it."""
    try:
        return train(training, workdir)
    except Preempted as error:
        print_in_process_0(f"ended by {error.name}: all is saved, and the same command goes on from there")
        raise


def train(training: Training, workdir: Path) -> FinishedTraining:
    """Train to the last step, resuming from the newest checkpoint if there is one.

    Raises:
        FloatingPointError: a step diverged; it is recorded for `--replay`.
        Preempted: SIGTERM or SIGHUP was received, and the state is saved.
    """
    config, embed, diverged = training.config, Embedder(training), None
    with Checkpoints(workdir / "checkpoints", config.train.max_to_keep, training.validates) as checkpoints:
        state, fields, known, mining = resume(training, workdir, checkpoints)
        start, writes = int(state.step), jax.process_index() == 0
        mined, collapse = (
            MiningCounts(print_in_process_0),
            Collapse(print_in_process_0, len(training.images.class_names)),
        )
        if mining:
            mined.resume(mining)
        batches = training.batches(start)
        with Writer(workdir, start, training.steps, writes, known) as writer, closing(batches):
            schedule = Schedule(
                training, workdir, embed, fields, checkpoints, writer, mined, collapse, start
            )
            given = training.train_step, global_batches(batches, training.mesh), training.steps
            try:
                state = fit(state, *given, schedule.after_step, mined.observe)
            except Diverged as error:
                diverged = error.with_traceback(None)  # the traceback would keep the last state alive
        if diverged:
            raise FloatingPointError(f"{diverged}; {_record(training, workdir, checkpoints, diverged)}")
        best = checkpoints.best_step() if int(state.step) == training.steps else None
        if best is not None:
            state = checkpoints.restore(best, state)
    return FinishedTraining(state, embed, writer.rows)
