"""The format of checkpoints on disk: Orbax folders with a record of digests, read back and verified.

A checkpoint is a folder CHECKPOINTS/<step>, written by Orbax atomically:

    default/            the train state
    record/metadata     a JSON object: the step, all scores so far, the digest of every array, and `about`
                        (the config of the run and the digest of its rows so far); with its own digest
    metrics/metrics     if checkpoints are scored: the score by which Orbax keeps the best

Checkpoints of earlier versions have no record and are not verified.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from pddm_jax.system.digests import digests, shapes
from pddm_jax.system.errors import MACHINE, is_out_of_memory
from pddm_jax.system.files import SEAL, NotWritten, explain_errors, is_full, no_space, seal_of
from pddm_jax.system.quiet import SuppressLogs
from pddm_jax.training.state import TrainState

STATE, RECORD = "default", "record"
_MACHINE = {
    "PERMISSION_DENIED": errno.EACCES,
    "Permission denied": errno.EACCES,
    "Too many open files": errno.EMFILE,
    "Stale file handle": errno.ESTALE,
    "Input/output error": errno.EIO,
    "DEADLINE_EXCEEDED": errno.ETIMEDOUT,
    "timed out": errno.ETIMEDOUT,
    "UNAVAILABLE": errno.EAGAIN,
    "Cannot allocate memory": errno.ENOMEM,
    "RESOURCE_EXHAUSTED": errno.ENOMEM,
}
"""Texts in errors of TensorStore and JAX that the machine causes, not damaged files."""


class Damaged(ValueError):
    """A checkpoint differs from what was saved."""


class CheckpointRecord(NamedTuple):
    """The record of a checkpoint; an old checkpoint has only a score.

    Attributes:
        score: of this checkpoint.
        arrays: the digest of each array of the state.
        scores: of all checkpoints so far by step, including those that were not kept.
        about: JSON fields about the run.
    """

    score: float | None
    arrays: Mapping[str, Any] | None = None
    scores: Mapping[int, float] | None = None
    about: Mapping[str, Any] | None = None


def steps_in(folder: Path) -> list[int]:
    """The sorted steps of the checkpoints in a folder."""
    try:
        paths = [*folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(path.name) for path in paths if path.name.isdecimal() and path.is_dir())


def make_record(
    step: int, state: TrainState, scores: Mapping[int, float], about: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The record of a checkpoint, with its own digest; `scores` include the one of this checkpoint.

    It is a copy: Orbax writes it later, when the arguments may have changed.
    """
    by_step = {str(step): score for step, score in scores.items()}
    record = {"step": step, "scores": by_step, "arrays": digests(state), "about": about}
    copy: dict[str, Any] = json.loads(json.dumps(record))
    return copy | {SEAL: seal_of(copy)}


def read_record(folder: Path, step: int) -> CheckpointRecord:
    """The record of a checkpoint, with the score that Orbax uses.

    Raises:
        Damaged: files are missing, or contradict each other.
        OSError: the machine cannot read them now.
    """
    where = folder / str(step)
    if not _is_folder(where / STATE):
        raise Damaged(f"it has no folder {STATE}")
    overview = _json(where / "_CHECKPOINT_METADATA")
    if overview is None:
        raise Damaged("_CHECKPOINT_METADATA is missing")
    items = overview.get("item_handlers")
    if not isinstance(items, dict):
        raise Damaged("_CHECKPOINT_METADATA does not list its parts")
    record, metrics = _json(where / RECORD / "metadata"), _json(where / "metrics" / "metrics")
    for name, found in ((RECORD, record), ("metrics", metrics)):
        if name in items and found is None:
            raise Damaged(f"{name} is missing")
    score = None if metrics is None else metrics.get("score")
    if metrics is not None and not isinstance(score, float | int):
        raise Damaged("metrics holds no score")
    if record is None:
        return CheckpointRecord(score)
    if record.pop(SEAL, None) != seal_of(record):
        raise Damaged(f"{RECORD} does not match its digest")
    if record["step"] != step:
        raise Damaged(f"it was saved at step {record['step']}")
    scores = {int(name): value for name, value in record["scores"].items()}
    if scores.get(step) != score:
        raise Damaged(f"its score is {score}, and was {scores.get(step)} when it was saved")
    return CheckpointRecord(score, record["arrays"], scores, record["about"])


def _json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no such file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError, NotADirectoryError) as error:
        raise Damaged(f"{path.parent.name}/{path.name} cannot be read") from error
    if not isinstance(value, dict):
        raise Damaged(f"{path.parent.name}/{path.name} holds no object")
    return value


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116 (is_dir hides some errors)
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_state(folder: Path, step: int, like: TrainState, weights_only: bool = False) -> TrainState:
    """The state of a checkpoint, in the structure and sharding of `like`, verified array by array.

    With `weights_only` the state of the optimizer is neither read nor verified; that of `like` is kept.
    Every process reads it on its own, without waiting for another.

    Raises:
        Damaged: it differs from what was saved.
        ValueError: it was saved by a run with other arrays in its state.
        OSError: the machine cannot read it now: no permission, an unreachable disk, too many open files.
        MemoryError: there is not enough memory.
    """
    record = read_record(folder, step)
    if record.arrays is not None:
        _check_structure(folder / str(step), record.arrays, like, weights_only)
    try:
        with SuppressLogs():
            state = _restore((folder / str(step) / STATE).absolute(), like, weights_only)
    except Exception as error:
        _check_machine(folder / str(step), error)
        raise Damaged(f"its state cannot be read ({_first_line(error)})") from error
    if record.arrays is not None:
        found = digests(state)
        wrong = [name for name, digest in found.items() if record.arrays[name] != digest]
        if wrong:
            raise Damaged(
                f"{len(wrong)} of {len(found)} arrays do not match their digests, for example {wrong[0]}"
            )
    if int(state.step) != step:
        raise Damaged(f"its state is of step {int(state.step)}")
    return state


def _restore(path: Path, like: TrainState, weights_only: bool) -> TrainState:
    """Read the arrays of `like`, or all but those of its optimizer."""
    if not weights_only:
        handler = ocp.StandardCheckpointHandler()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with closing(handler):
            state: TrainState = handler.restore(path, args=ocp.args.StandardRestore(abstract))
        return state
    tree = {"step": like.step, "params": like.params, "batch_stats": like.batch_stats}
    weights = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
    arguments = ocp.checkpoint_utils.construct_restore_args(weights)
    with closing(ocp.PyTreeCheckpointHandler()) as handler:
        found = handler.restore(
            path, args=ocp.args.PyTreeRestore(weights, restore_args=arguments, partial_restore=True)
        )
    return TrainState(found["step"], found["params"], found["batch_stats"], like.opt_state)


def _check_machine(where: Path, error: Exception) -> None:
    """Raise an OSError or MemoryError if the machine caused the error: the files may be intact."""
    numbers = [number for words, number in _MACHINE.items() if words in str(error)]
    number = error.errno if isinstance(error, OSError) else None
    if number is not None and number in {*MACHINE, errno.EACCES, errno.EPERM}:
        numbers.insert(0, number)
    if is_out_of_memory(error) or numbers[:1] == [errno.ENOMEM]:
        raise MemoryError(f"{where} cannot be read: {_first_line(error)}") from error
    if numbers:
        raise OSError(numbers[0], f"cannot be read now: {_first_line(error)}", str(where)) from error


def _check_structure(where: Path, arrays: Mapping[str, Any], like: TrainState, weights_only: bool) -> None:
    """Raise a ValueError for an intact checkpoint of another network or optimizer."""
    theirs = {name: (digest["shape"], digest["dtype"]) for name, digest in arrays.items()}
    ours = shapes(like)
    if weights_only:
        theirs, ours = (
            {name: x for name, x in of.items() if not name.startswith(".opt_state")}
            for of in (theirs, ours)
        )
    differing = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{where} was saved with another network or optimizer, or by another version of pddm_jax: "
            f"{name} is {theirs.get(name)} in the checkpoint, {ours.get(name)} here"
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


@contextmanager
def orbax_errors(folder: Path, action: str) -> Iterator[None]:
    """Convert any error of Orbax to a one-line error that names the last complete checkpoint.

    Raises:
        NotWritten: in place of the error; it says that the command could not do `action`.
    """
    try:
        yield
    except Exception as error:
        steps = steps_in(folder)
        kept = f"the last complete checkpoint is step {steps[-1]}" if steps else "no checkpoint is complete"
        if is_full(error):
            raise no_space(folder, kept) from error
        if isinstance(error, NotWritten):
            raise
        with explain_errors(folder, kept):
            if isinstance(error, OSError):
                raise
        line = " ".join(str(error).split())[:300]
        raise NotWritten(errno.EIO, f"{folder}: could not {action}: {line}; {kept}") from error


def rename_checkpoint(folder: Path, step: int, name: str) -> Path:
    """Rename a checkpoint to `<name>-<step>`, which Orbax ignores; nothing is deleted."""
    target, number = folder / f"{name}-{step}", 1
    while target.exists():
        number += 1
        target = folder / f"{name}-{step}-{number}"
    (folder / str(step)).rename(target)
    return target


def restore_chosen(
    folder: Path, like: TrainState, scored: bool, weights_only: bool = False
) -> tuple[TrainState, str]:
    """Restore the checkpoint with the highest score, or the newest one; damaged ones are skipped.

    Nothing is written.

    Args:
        folder: of the checkpoints.
        like: the structure and sharding of the state.
        scored: whether to choose by score.
        weights_only: see `read_state`.

    Returns:
        The state, and the problems of damaged checkpoints as a text; empty if there are none.

    Raises:
        FileNotFoundError: there is no checkpoint.
        Damaged: all checkpoints are damaged.
    """
    records, problems = {}, []
    for step in steps_in(folder):
        try:
            records[step] = read_record(folder, step)
        except Damaged as error:
            problems.append(f"checkpoint {folder / str(step)} is damaged: {error}")
    best = [step for step, record in records.items() if scored and record.score is not None]
    order = sorted(best, key=lambda step: (records[step].score, step), reverse=True)
    for step in order + [step for step in sorted(records, reverse=True) if step not in order]:
        try:
            return read_state(folder, step, like, weights_only), "; ".join(problems)
        except Damaged as error:
            problems.append(f"checkpoint {folder / str(step)} is damaged: {error}")
    if problems:
        raise Damaged("; ".join(problems))
    raise FileNotFoundError(f"{folder} holds no checkpoint")
