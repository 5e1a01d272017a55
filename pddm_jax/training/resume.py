"""Checks of a workdir before a run resumes: its config, its results, and whether a new config matches."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ml_collections import FrozenConfigDict

from pddm_jax.config.old_names import with_new_names
from pddm_jax.data.from_python import ARRAYS, PATHS
from pddm_jax.system.console import print_line
from pddm_jax.system.files import write_sealed
from pddm_jax.training.checkpoint_files import Damaged, read_record, steps_in
from pddm_jax.training.run_files import Results, read_config, read_results
from pddm_jax.training.writer import Row, RowsDigest

MAY_DIFFER = (
    *("classes", "data.max_pixels", "data.workers", "devices", "image_shape", "train_sha256"),
    "train.pddm_rerank_depth",
)
"""Fields that may change when a run resumes.

They do not affect training, or the run writes them itself; `trainer.resume` checks `train_sha256` and
reports a change of `devices`.
"""


def stored_config(workdir: Path) -> dict[str, Any] | None:
    """The config of the run in a workdir, as in config.json; None if there is no run.

    If config.json is damaged or missing, the config is read from the newest intact checkpoint.

    Raises:
        ValueError: no config can be read, but the workdir has checkpoints, or a damaged config.json and
            results.json.
    """
    folder, problem = workdir / "checkpoints", ""
    try:
        fields = dict(read_config(workdir))
        if isinstance(fields.get("devices"), int) and isinstance(fields.get("train_sha256"), str):
            return fields
        raise ValueError(
            f"{workdir / 'config.json'} is damaged: devices or train_sha256 is missing or has the "
            "wrong type; choose another workdir"
        )
    except FileNotFoundError:
        steps = steps_in(folder)
    except ValueError as error:
        steps, problem = steps_in(folder), str(error)
    for step in reversed(steps):
        try:
            about = read_record(folder, step).about
        except Damaged:
            continue
        if about is not None:
            return with_new_names(about["config"])
    if steps:
        raise ValueError(
            problem
            or f"{workdir} holds checkpoints, but no config.json: restore it, or choose another workdir"
        )
    if problem and (workdir / "results.json").exists():
        raise ValueError(problem)
    return None


def check_same_run(workdir: Path, config: FrozenConfigDict) -> None:
    """Raise a ValueError that lists the fields in which the run in `workdir` differs from `config`.

    A run may be extended to more steps if its learning rate does not depend on their number.
    """
    theirs, ours = stored_config(workdir), json.loads(config.to_json())
    if theirs is None:
        return
    found = [x for x in differences(theirs, ours) if x[0] not in MAY_DIFFER]
    if [name for name, *_ in found] == ["train.steps"] and theirs["train"]["steps"] < config.train.steps:
        if config.optimizer.schedule == "constant":
            return
        raise ValueError(
            f"{workdir} holds a run of {theirs['train']['steps']} train.steps, and its learning rate "
            f"depends on that number (optimizer.schedule {config.optimizer.schedule!r}): it cannot be "
            f"extended to {config.train.steps}; {new_run_hint(workdir, config)}"
        )
    differing = ", ".join(f"{name} {there!r} (here {here!r})" for name, there, here in found)
    if differing:
        raise ValueError(f"{workdir} holds a run of another config: {differing}; choose another workdir")


def new_run_hint(workdir: Path, config: FrozenConfigDict) -> str:
    """What to do if the run in `workdir` cannot be extended: begin another run with its weights."""
    if config.get("python", {}).get("network"):
        return "choose another workdir"
    if config.data.name in (ARRAYS, PATHS):
        given = f'config={{"network.pretrained": {str(workdir)!r}}} and another workdir'
    else:
        given = f"--config.network.pretrained={workdir} and another workdir"
    return f"start a new run from its weights with {given}"


def differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves in which two nested dicts differ: dotted name, value in `a`, value in `b`."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [(name, a, b)]
    return [
        difference
        for key in sorted({*a, *b})
        for difference in differences(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    ]


def finished(
    workdir: Path,
    config: FrozenConfigDict,
    evaluation: str,
    readers: Sequence[Callable[[Results], Any]] = (),
    protocol: Mapping[str, Any] = MappingProxyType({}),
) -> Results | None:
    """The results of a finished run; None if training steps remain, or if it must be evaluated again.

    Each of `readers` is called with the results; if one fails, the results are damaged. `protocol` holds
    fields of the protocol that the config sets: a run with another value is evaluated again. Results of
    earlier versions, which lack such a field, are returned as they are.

    Raises:
        ValueError: results.json is damaged, or belongs to another evaluation; or the run must be evaluated
            again, but its last checkpoint is missing.
    """
    if not (workdir / "results.json").exists():
        return None
    results = read_results(workdir)
    if results["evaluation"] != evaluation:
        raise ValueError(
            f"{workdir} holds a run with evaluation {results['evaluation']!r}, not {evaluation!r}; "
            "choose another workdir"
        )
    if results["steps"] < config.train.steps:
        return None
    try:
        for read in readers:
            read(results)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{workdir / 'results.json'} is damaged, or was written by another version: its measures raise "
            f"{error!r}; delete it and repeat the command of the run, which evaluates the run again"
        ) from error
    stored = results["protocol"]
    changed = [name for name, value in protocol.items() if stored.get(name, value) != value]
    if not changed:
        return results
    if results["steps"] not in steps_in(workdir / "checkpoints"):
        name = changed[0]
        raise ValueError(
            f"{workdir} holds results with {name} {stored[name]!r} (here {protocol[name]!r}), but no "
            f"checkpoint of step {results['steps']}, so it cannot be evaluated again; choose another "
            "workdir"
        )
    return None


def is_due(step: int, every: int, steps: int) -> bool:
    """Whether an action that runs every `every` steps, and at the last step, is due at `step`."""
    return step % every == 0 or step == steps


def rows_of(known: RowsDigest, train: Mapping[str, Any]) -> RowsDigest:
    """Drop the rows that only a shorter run writes, at its last step.

    `train` is the `train` group of the config of the longer run.
    """

    def is_kept(row: Row) -> bool:
        every = train["log_every"] if "loss" in row else train["eval_every"]
        return is_due(row["step"], every, train["steps"])

    return known._replace(rows=[row for row in known.rows if is_kept(row)])


def repair_config(workdir: Path) -> None:
    """Restore a damaged or missing config.json of a finished run from the newest intact checkpoint."""
    try:
        read_config(workdir)
    except (ValueError, OSError):
        fields = stored_config(workdir)
        if fields is not None:
            path = workdir / "config.json"
            write_sealed(path, fields)
            print_line(f"{path} was damaged or missing, and has been restored from a checkpoint")


def update_config(workdir: Path, theirs: dict[str, Any], train: dict[str, Any]) -> None:
    """Update config.json when a run resumes; keep the results of fewer steps as results-<steps>.json."""
    try:
        same = read_config(workdir) == theirs | {"train": train}
    except (ValueError, OSError):
        same = False
    if not same:
        write_sealed(workdir / "config.json", theirs | {"train": train})
    results = workdir / "results.json"
    if results.exists():
        steps = read_results(workdir)["steps"]
        if steps < train["steps"]:  # otherwise the run is evaluated again, which replaces the results
            results.replace(workdir / f"results-{steps}.json")
