"""config.json and results.json of a workdir, checked when they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pddm_jax.config.old_names import with_new_names
from pddm_jax.config.rules import GROUPS, RULES, integers
from pddm_jax.system.files import read_sealed

Config = Mapping[str, Any]
Results = dict[str, Any]

NETWORK = ("name", "embedding_dim", "freeze_batch_stats", "dtype", "remat", "microbatches")
"""Fields of the network itself; the others are of the PDDM unit and of the initial weights."""

REWRITE = "repeat the command of the run, which restores it from a checkpoint, or choose another workdir"
"""What to do if config.json is damaged."""

SHAPE = integers(1)
"""The rule of `image_shape`, which runs write."""

REQUIRED_GROUPS = ("data", "network", "objective", "optimizer", "train")
"""Groups of fields that every config has."""

REQUIRED = (
    *("seed", "data.name", "data.image_size", "data.augment", "data.val_class_fraction"),
    *(f"network.{name}" for name in (*NETWORK, "unit_dim")),
    *("objective.name", "optimizer.schedule", "optimizer.learning_rate"),
    *(f"train.{name}" for name in ("steps", "log_every", "eval_every", "checkpoint_every")),
)
"""Fields that every run has written."""


def read_config(workdir: Path) -> Config:
    """The fields of the run.

    Raises:
        FileNotFoundError: there is no run that has made a step.
        ValueError: they are damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run: it has no config.json")
    config = with_new_names(read_sealed(path, REWRITE))
    try:
        _check(config)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {REWRITE}") from error
    return config


def _check(config: Config) -> None:
    """Raise a ValueError that names what is missing from a stored config, or is not allowed."""
    absent = [name for name in REQUIRED_GROUPS if name not in config]
    if absent:
        raise ValueError(f"it lacks the groups {', '.join(absent)}")
    for name in GROUPS & config.keys():
        if not isinstance(config[name], dict):
            raise ValueError(f"{name} must be a group of fields, got {str(config[name])[:40]!r}")
    SHAPE.check("image_shape", config.get("image_shape"))
    for name, rule in RULES.items():
        group, _, field = name.rpartition(".")
        fields = config.get(group, {}) if group else config
        if field in fields:
            try:
                rule.check(name, fields[field])
            except ValueError as error:
                raise ValueError(f"{error}, or config.json was written by another version") from error
        elif name in REQUIRED:
            raise ValueError(f"{name} is missing")


def read_results(workdir: Path) -> dict[str, Any]:
    """What the run ended with.

    Raises:
        FileNotFoundError: it has not ended.
        ValueError: it is damaged.
    """
    path = workdir / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no finished run: it has no results.json")
    todo = "delete it and repeat the command of the run, which evaluates the run again"
    results = read_sealed(path, todo)
    kinds = {"evaluation": str, "protocol": dict, "steps": int, "params_sha256": str}
    odd = [name for name, kind in kinds.items() if not isinstance(results.get(name), kind)]
    if odd:
        raise ValueError(f"{path} is damaged: missing or of the wrong type: {', '.join(odd)}; {todo}")
    return results
