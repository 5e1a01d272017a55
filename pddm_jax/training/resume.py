"""What a workdir holds of a run, and whether a config may go on with it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from pddm_jax.config.old_names import with_new_names
from pddm_jax.system.console import tell
from pddm_jax.system.files import write_sealed
from pddm_jax.training.checkpoint_files import Damaged, read_record, steps_in
from pddm_jax.training.run_files import Results, read_config, read_results
from pddm_jax.training.writer import Known, Row

MAY_DIFFER = (
    *("classes", "data.max_pixels", "data.workers", "devices", "image_shape", "train_sha256"),
    "train.pddm_rerank_depth",
)
"""Fields that a run may go on with other values of: they change nothing of what it leaves, or are told."""


def began(workdir: Path) -> dict[str, Any] | None:
    """The fields that the run in a workdir began with, as in config.json; None where there is no run.

    Where config.json is damaged or missing, they are those that the newest checkpoint knows.

    Raises:
        ValueError: it is damaged or missing, and no checkpoint knows them.
    """
    folder, problem = workdir / "checkpoints", ""
    try:
        fields = dict(read_config(workdir))
        if isinstance(fields.get("devices"), int) and isinstance(fields.get("train_sha256"), str):
            return fields
        raise ValueError(
            f"{workdir / 'config.json'} is damaged: devices or train_sha256 missing or of a wrong type; "
            "choose another --workdir"
        )
    except FileNotFoundError:
        there = steps_in(folder)
    except ValueError as error:
        there, problem = steps_in(folder), str(error)
    for step in reversed(there):
        try:
            about = read_record(folder, step).about
        except Damaged:
            continue
        if about is not None:
            return with_new_names(about["config"])
    if there:
        raise ValueError(
            problem
            or f"{workdir} holds checkpoints, but no config.json: put it back, or choose another --workdir"
        )
    if problem and (workdir / "results.json").exists():
        raise ValueError(problem)
    return None


def check_same_run(workdir: Path, config: FrozenConfigDict) -> None:
    """Raise a ValueError that names the fields in which a run in `workdir` differs from this one.

    More steps are the same run where no step depends on their number.
    """
    theirs, ours = began(workdir), json.loads(config.to_json())
    if theirs is None:
        return
    found = [x for x in differences(theirs, ours) if x[0] not in MAY_DIFFER]
    if [name for name, *_ in found] == ["train.steps"] and theirs["train"]["steps"] < config.train.steps:
        if config.optimizer.schedule == "constant":
            return
        raise ValueError(
            f"{workdir} holds a run of {theirs['train']['steps']} train.steps, on which its learning rate "
            f"depends (optimizer.schedule {config.optimizer.schedule!r}): it cannot be extended to "
            f"{config.train.steps}; begin another run with its weights, by "
            f"--config.network.pretrained={workdir} and another --workdir"
        )
    differing = ", ".join(f"{name} {there!r} (here {here!r})" for name, there, here in found)
    if differing:
        raise ValueError(f"{workdir} holds a run with {differing}; choose another --workdir")


def differences(a: Any, b: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves, by dotted name, in which two nested dicts differ."""
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
) -> Results | None:
    """The results of a run that is finished; None where there are steps to make.

    `readers` are what the results are given to later: where one cannot read them, they are damaged.

    Raises:
        ValueError: results.json is damaged, or of another evaluation.
    """
    if not (workdir / "results.json").exists():
        return None
    results = read_results(workdir)
    if results["evaluation"] != evaluation:
        raise ValueError(
            f"{workdir} holds a run that was measured by {results['evaluation']}, not by "
            f"{evaluation}; choose another --workdir"
        )
    if results["steps"] < config.train.steps:
        return None
    try:
        for read in readers:
            read(results)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{workdir / 'results.json'} is damaged, or of another version: {error!r} in its "
            "measures; delete it and give the run's command again, which measures anew from the last "
            "checkpoint"
        ) from error
    return results


def is_due(step: int, every: int, steps: int) -> bool:
    """Whether something that happens every so many steps, and at the last one, happens now."""
    return step % every == 0 or step == steps


def rows_of(known: Known, train: Mapping[str, Any]) -> Known:
    """Without the rows that only a run of fewer steps has at its last one; `train` are our fields."""

    def has(row: Row) -> bool:
        every = train["log_every"] if "loss" in row else train["eval_every"]
        return is_due(row["step"], every, train["steps"])

    return known._replace(rows=[row for row in known.rows if has(row)])


def mend_config(workdir: Path) -> None:
    """Write config.json of a finished run again if it is damaged or missing, from the last checkpoint."""
    try:
        read_config(workdir)
    except (ValueError, OSError):
        fields = began(workdir)
        if fields is not None:
            path = workdir / "config.json"
            write_sealed(path, fields)
            tell(f"{path} was damaged or missing; it is written again from the last checkpoint")


def go_on(workdir: Path, theirs: dict[str, Any], train: dict[str, Any]) -> None:
    """Write config.json where it changes; results of fewer steps are kept as results-<steps>.json."""
    try:
        same = read_config(workdir) == theirs | {"train": train}
    except (ValueError, OSError):
        same = False
    if not same:
        write_sealed(workdir / "config.json", theirs | {"train": train})
    results = workdir / "results.json"
    if results.exists():
        results.replace(workdir / f"results-{theirs['train']['steps']}.json")
