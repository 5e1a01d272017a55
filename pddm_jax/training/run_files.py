"""config.json and results.json of a workdir, checked when they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pddm_jax.config.old_names import with_new_names
from pddm_jax.system.files import read_sealed

Config = Mapping[str, Any]
Results = dict[str, Any]

NETWORK = ("name", "embedding_dim", "freeze_batch_stats", "dtype", "remat", "microbatches")
"""Fields of the network itself; the others are of the PDDM unit and of the initial weights."""

COUNT, NUMBER, TEXT, FLAG, WORD = (int,), (int, float), (str,), (bool,), (str, type(None))

REWRITE = "repeat the command of the run, which restores it from a checkpoint, or choose another workdir"
"""What to do if config.json is damaged."""

KINDS: Mapping[str, tuple[type, ...]] = {
    "seed": COUNT,
    "image_shape": (list,),
    "objective.name": TEXT,
    **{f"train.{name}": COUNT for name in ("steps", "log_every", "eval_every", "checkpoint_every")},
    **{f"network.{name}": COUNT for name in ("embedding_dim", "unit_dim", "microbatches")},
    **{f"network.{name}": TEXT for name in ("name", "dtype")},
    **{f"network.{name}": FLAG for name in ("freeze_batch_stats", "remat")},
    **{f"optimizer.{name}": TEXT for name in ("name", "schedule")},
    **{f"optimizer.{name}": NUMBER for name in ("learning_rate", "weight_decay", "clip_norm", "warmup")},
    **{f"optimizer.{name}": NUMBER for name in ("pddm_lr_multiplier", "backbone_lr_multiplier")},
    **{f"data.{name}": TEXT for name in ("name", "crop", "on_error", "augment")},
    **{f"data.{name}": WORD for name in ("root", "test_classes", "classes", "ground_truth")},
    **{
        f"data.{name}": NUMBER
        for name in ("val_class_fraction", "min_crop_area", "color_jitter", "resize_crop_ratio")
    },
    "data.shift": COUNT,
    "data.flip": FLAG,
    "data.image_size": (int, type(None)),
}
"""Types of the fields that a network and its images are made from."""

WIDEST = 65_536
"""Of embeddings and of the unit, as for configs of runs."""

GROUPS = ("data", "network", "objective", "optimizer", "train")
"""Groups of fields that every config has."""

REQUIRED = (
    *("seed", "image_shape", "data.name", "data.image_size", "data.augment", "data.val_class_fraction"),
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
    groups = [name for name in GROUPS if not isinstance(config.get(name), dict)]
    if groups:
        raise ValueError(f"{path} is damaged: it lacks the groups {', '.join(groups)}; {REWRITE}")
    for name, kinds in KINDS.items():
        group, _, field = name.rpartition(".")
        fields = config[group] if group else config
        if field not in fields and name in REQUIRED:
            raise ValueError(f"{path} is damaged: {name} is missing; {REWRITE}")
        if field in fields and not _fits(field, fields[field], kinds):
            raise ValueError(f"{path} is damaged: {name} cannot be {str(fields[field])[:40]!r}; {REWRITE}")
    return config


def _fits(field: str, value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a field may have a value: one of a type, and no width that no network has."""
    if field in ("embedding_dim", "unit_dim") and isinstance(value, int) and not 0 <= value <= WIDEST:
        return False
    if field == "image_shape" and isinstance(value, list) and not all(type(x) is int for x in value):
        return False
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


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
