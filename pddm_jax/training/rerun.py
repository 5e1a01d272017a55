"""Steps that diverged: their record is written by a run, and `--replay=FILE` runs the step again."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from pddm_jax.config import defaults
from pddm_jax.config.check import FILES, accepted, check_machine, fields
from pddm_jax.losses.objectives import make_objective
from pddm_jax.pddm.unit import PDDM
from pddm_jax.sharding import data_mesh, global_batches
from pddm_jax.system.console import one_line
from pddm_jax.training.loop import Diverged
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.provenance import versions
from pddm_jax.training.replay import check_batch, examine, read_record, report, write_record
from pddm_jax.training.restore import network_of
from pddm_jax.training.state import TrainState, TrainStep, init_state
from pddm_jax.types import Batch


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
    """Write workdir/diverged-step-N.npz, and return what is told of it.

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
    return f"--replay={path} runs the step again and tells where"


def replay(path: Path) -> str:
    """Run the step of a record again, and tell what is not finite in it.

    Raises:
        OSError: there is no such file.
        ValueError: it is no record, or a damaged one.
    """
    about, _, batch = found = read_record(path)
    try:
        config = _config(about["config"])
        check_batch(batch, config.data.classes_per_batch * config.data.images_per_class)
        mesh = _mesh(len(batch.labels))
        network, loss, optimizer, unit = _parts(config)
        like = init_state(
            network, unit, optimizer, batch.images.shape[1:], config.seed, mesh, about["classes"]
        )
        state = found.state(like)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} is damaged, or was written by an incompatible version: {one_line(str(error))}"
        ) from error
    (batch,) = global_batches([batch], mesh)
    logs, findings = examine(network, loss, optimizer, mesh, state, batch)
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


def _config(fields_of_run: dict[str, Any]) -> FrozenConfigDict:
    """The config of a record, checked: without its files, of which a step reads none."""
    config = ConfigDict(fields_of_run)
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


def _parts(config: FrozenConfigDict) -> tuple[Any, Any, Any, PDDM]:
    """Network, loss, optimizer and unit of a config, without the weights that it begins with."""
    given = {field: x for field, x in config.objective.items() if field != "name" and x is not None}
    p, k = config.data.classes_per_batch, config.data.images_per_class
    loss, _ = make_objective(config.objective.name, pairs=p * k * (k - 1) // 2, **given)
    optimizer = make_optimizer(**config.optimizer, steps=config.train.steps)
    return network_of(config), loss, optimizer, PDDM(config.network.unit_dim, config.network.unit_dim)


def _mesh(images: int) -> Any:
    """As many of the devices as share out a batch equally."""
    devices = jax.local_devices()
    return data_mesh(devices[: max(n for n in range(1, len(devices) + 1) if images % n == 0)])
