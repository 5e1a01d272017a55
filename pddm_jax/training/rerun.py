"""Steps that diverged: their record is written by a run, and `--replay=FILE` runs the step again."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from pddm_jax.config import defaults
from pddm_jax.config.check import FILES, accepted, check_machine, fields
from pddm_jax.config.old_names import with_new_names
from pddm_jax.sharding import data_mesh, global_batches
from pddm_jax.system.errors import reason
from pddm_jax.training.provenance import versions
from pddm_jax.training.recipe import without_weights
from pddm_jax.training.replay import check_batch, examine, read_record, report, write_record
from pddm_jax.training.state import TrainState, TrainStep, init_state
from pddm_jax.training.step import Diverged
from pddm_jax.types import Batch

OWN = ("network", "objective", "optimizer")
"""Parts of a run that `pddm_jax.train` takes as objects of Python; config.json lists them in `python`."""


def run_to(step: int, state: TrainState, train_step: TrainStep, batches: Iterator[Batch]) -> TrainState:
    """The state before a step, from an earlier one and the batches that follow it."""
    for batch in islice(batches, step - 1 - int(state.step)):
        state, _ = train_step(state, batch)
    return state


def record(
    workdir: Path,
    config: FrozenConfigDict,
    diverged: Diverged,
    state: TrainState,
    batch: Batch,
    classes: int,
) -> str:
    """Write workdir/diverged-step-N.npz, and return a message that names it.

    Args:
        workdir: of the run.
        config: of the run.
        diverged: what the run ended with.
        state: before that step.
        batch: of that step, of all processes together.
        classes: of the classifier; 0: none.
    """
    path = workdir / f"diverged-step-{diverged.step}.npz"
    about = {
        "config": json.loads(config.to_json()),
        "step": diverged.step,
        "not_finite": {name: repr(value) for name, value in diverged.values.items()},
        "classes": classes,
        "versions": versions(),
    }
    try:
        if jax.process_index() == 0:
            write_record(path, about, state, batch)
    except OSError as error:
        return f"the step could not be saved for --replay: {error}"
    own = _from_python(about["config"])
    if own:
        return f"the step is saved in {path}, but --replay cannot run it again: {own} given from Python"
    return f"--replay={path} runs the step again and names the first value that is not finite"


def replay(path: Path) -> str:
    """Run the step of a record again, and report what is not finite in it.

    Raises:
        OSError: there is no such file.
        ValueError: it is no record, or a damaged one; or its run had parts that were given from Python.
    """
    about, _, batch = found = read_record(path)
    own = _from_python(about["config"])
    if own:
        raise ValueError(f"{path} cannot be run again by --replay: {own} given from Python")
    try:
        config = _config(about["config"])
        check_batch(batch, config.data.classes_per_batch * config.data.images_per_class)
        mesh = _mesh(len(batch.labels))
        recipe = without_weights(config)
        modules = recipe.network, recipe.unit, recipe.optimizer
        like = init_state(*modules, batch.images.shape[1:], config.seed, mesh, about["classes"])
        state = found.state(like)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} is damaged, or was written by an incompatible version: {reason(error)}"
        ) from error
    (batch,) = global_batches([batch], mesh)
    logs, findings = examine(recipe.network, recipe.loss, recipe.optimizer, mesh, state, batch)
    here = ", ".join(f"{name} {float(value):.4g}" for name, value in logs.items())
    there = ", ".join(f"{name} {value}" for name, value in about["not_finite"].items())
    differing = [
        f"{name} {x} (here {versions()[name]})"
        for name, x in about["versions"].items()
        if versions().get(name) not in (None, x)
    ]
    return (
        f"step {about['step']} of {config.objective.name} on {config.data.name}, seed {config.seed}: "
        f"{len(batch.labels)} images\n"
        f"in the run: {there}\nhere: {here}\n"
        + (f"the run stood on {', '.join(differing)}\n" if differing else "")
        + report(findings)
    )


def _from_python(fields_of_run: Mapping[str, Any]) -> str:
    """The parts of a run that were given from Python, as the subject and verb of a sentence; "" if none."""
    own = fields_of_run.get("python")
    names = [name for name in OWN if own.get(name)] if isinstance(own, Mapping) else []
    return f"its {' and its '.join(names)} {'were' if len(names) > 1 else 'was'}" if names else ""


def _config(fields_of_run: Mapping[str, Any]) -> FrozenConfigDict:
    """The config of a record, checked: without its files, of which a step reads none."""
    config = ConfigDict(with_new_names({name: x for name, x in fields_of_run.items() if name != "python"}))
    for name, default in fields(defaults.get_config("tuned")):
        group, _, field = name.partition(".")
        if field and field not in config[group]:  # which earlier runs do not have
            config[group][field] = default
    for name in (*FILES, "data.test_classes", "network.pretrained", "transfer.root"):
        group, _, field = name.partition(".")
        if field in config.get(group, {}):
            config[group][field] = None
    checked = accepted(config)
    check_machine(checked, 1)
    return checked


def _mesh(images: int) -> Any:
    """As many of the devices as share out a batch equally."""
    devices = jax.local_devices()
    return data_mesh(devices[: max(n for n in range(1, len(devices) + 1) if images % n == 0)])
