"""Config validation: ranges of fields, combinations of fields, and the memory of the machine.

All checks can run before data is read and before a file or folder is created.
"""

import os
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from pddm_jax import data
from pddm_jax.config import defaults
from pddm_jax.config.old_names import NEW_NAMES
from pddm_jax.config.rules import MISSING, MOST, NONE, RULES, suggestion
from pddm_jax.data.from_python import ARRAYS
from pddm_jax.data.load import LISTED
from pddm_jax.system.cli import check_file, expanded

FILES = (
    *("data.classes", "data.ground_truth", "zero_shot.descriptions", "zero_shot.ids"),
    *("transfer.classes", "transfer.ground_truth", "transfer.hierarchy"),
)
"""Fields that name a file."""

POSITIVE_FOR = {"multi_similarity": ("alpha", "beta")}
"""Fields that must be above 0 because the objective divides by them."""

IMAGES_IN_MEMORY = {"glyphs": 30_000, "fashion_mnist": 70_000}
"""Lower bounds on the number of images that a data set holds in memory, with one byte per pixel."""

PREFETCHED = 8
"""Minimum number of batches that are read ahead."""


def fields(config: ConfigDict | FrozenConfigDict) -> Iterator[tuple[str, Any]]:
    """The fields of a config by dotted name."""
    for group, value in config.items():
        if isinstance(value, ConfigDict | FrozenConfigDict):
            yield from ((f"{group}.{name}", x) for name, x in value.items())
        else:
            yield group, value


def accepted(config: ConfigDict | FrozenConfigDict) -> FrozenConfigDict:
    """Check a config, and return it frozen, with None for the word "None" in fields that may be None.

    Raises:
        ValueError: a field is missing, unknown or out of its range, or two fields contradict each other.
        OSError: a file that a field names does not exist.
    """
    if not isinstance(config, ConfigDict | FrozenConfigDict):
        raise ValueError(f"a config must be a ConfigDict, got {type(config).__name__}")
    resolved = ConfigDict(config).copy_and_resolve_references()
    for name, value in fields(resolved):
        if name in RULES and RULES[name].optional and isinstance(value, str) and value in NONE:
            group, _, field = name.partition(".")
            resolved[group][field] = None
    frozen = FrozenConfigDict(resolved)
    check_config(frozen)
    return frozen


def check_config(config: FrozenConfigDict) -> None:
    """Raise a ValueError or OSError that names the first field that a run cannot use."""
    given, wanted = dict(fields(config)), dict(fields(defaults.get_config("tuned")))
    for name in wanted:
        if name not in given:
            raise ValueError(f"{name} {MISSING}")
    for name, value in given.items():
        if name in NEW_NAMES:
            raise ValueError(f"{name} was renamed: use {NEW_NAMES[name]}")
        if name not in RULES:
            raise ValueError(f"{name} is not a config field: {suggestion(name)}")
        RULES[name].check(name, value)
    for name in FILES:
        if given.get(name) is not None:
            check_file(name, expanded(name, given[name]))
    _check_data(config)
    _check_objective(config)
    _check_pretrained(config)
    _check_evaluation(config)


def _check_data(config: FrozenConfigDict) -> None:
    """Check combinations of the fields of `data`."""
    of = config.data
    in_memory = of.name in (*data.IN_MEMORY, ARRAYS)
    if of.root is not None:
        expanded("data.root", of.root)
    for name in ("classes", "ground_truth"):
        if of[name] is not None and of.name not in LISTED:
            raise ValueError(f"data.{name} applies only to {', '.join(LISTED)}, not to {of.name!r}")
    if of.test_classes is not None and not of.test_classes.isdecimal():
        check_file("data.test_classes", expanded("data.test_classes", of.test_classes))
    if of.augment == "shift" and not in_memory:
        raise ValueError(f'data.augment must be "crop" for {of.name}: its images differ in size')
    if of.augment == "crop" and of.image_size is None:
        raise ValueError('data.image_size must be given for data.augment="crop", got None')
    if of.augment == "shift" and of.name != ARRAYS and of.shift >= (of.image_size or 28):
        raise ValueError(
            f"data.shift must be below the image size, {of.image_size or 28} pixels, got {of.shift}"
        )
    if of.crop == "bbox" and in_memory:
        raise ValueError(f'data.crop must be "none" for {of.name}, which has no bounding boxes')


def _check_objective(config: FrozenConfigDict) -> None:
    """Check the fields that an objective divides by, and that int32 holds the number of positive pairs."""
    of = config.objective
    for name in POSITIVE_FOR.get(of.name, ()):
        if of[name] == 0:
            raise ValueError(f"objective.{name} must be above 0 for objective {of.name!r}, got 0")
    p, k = config.data.classes_per_batch, config.data.images_per_class
    if p * k * (k - 1) // 2 > MOST:
        raise ValueError(
            "data.classes_per_batch and data.images_per_class must make fewer than 2**31 positive pairs, "
            f"got {p} and {k}"
        )


def _check_pretrained(config: FrozenConfigDict) -> None:
    spec = config.network.pretrained
    if spec is not None and not spec.startswith("pypi:"):
        path = expanded("network.pretrained", spec)
        if not path.is_dir():
            check_file("network.pretrained", path)


def _check_evaluation(config: FrozenConfigDict) -> None:
    """Check the groups of evaluations that the config has, and their fields."""
    for group in ("transfer", "zero_shot"):
        if group in config and config.evaluation != group:
            raise ValueError(
                f"evaluation is {config.evaluation!r}, but the config has the group {group!r}, which only "
                f"evaluation {group!r} reads: set config.evaluation = {group!r}, or remove the group"
            )
    root = config.get("transfer", {}).get("root")
    if root is not None and not expanded("transfer.root", root).exists():
        raise FileNotFoundError(f"transfer.root: {root} does not exist")
    of = config.get("zero_shot", {})
    if of.get("ids") is not None and of.get("descriptions") is None:
        raise ValueError("zero_shot.ids needs zero_shot.descriptions, which is None: give both")


def check_machine(config: FrozenConfigDict, devices: int, processes: int = 1) -> None:
    """Raise a ValueError if a batch does not divide over the devices, or cannot fit into memory.

    Args:
        config: config of the run.
        devices: number of devices of all processes.
        processes: number of processes; each reads an equal share of a batch.
    """
    p, k = config.data.classes_per_batch, config.data.images_per_class
    microbatches = config.network.microbatches
    share, rest = divmod(p * k, devices)
    if rest:
        raise ValueError(
            f"data.classes_per_batch x data.images_per_class: {p} x {k} images cannot be divided evenly "
            f"among {devices} devices"
        )
    if share % microbatches:
        raise ValueError(
            f"network.microbatches must divide the number of images per device, {p} x {k} / {devices}, "
            f"got {microbatches}"
        )
    available = memory()
    for names, size in needs(config, processes).items():
        if size > available:
            raise ValueError(
                f"{names} must be smaller: a run needs at least {size / 2**30:,.1f} GiB of memory, but "
                f"this machine has {available / 2**30:,.1f} GiB"
            )


def needs(config: FrozenConfigDict, processes: int) -> dict[str, int]:
    """Lower bounds on the memory of a run in bytes, by the fields that determine them."""
    of, net = config.data, config.network
    size, channels = of.image_size or 28, 1 if of.name in data.IN_MEMORY else 3
    pixels = of.classes_per_batch * of.images_per_class * size**2 * channels
    pairs = of.classes_per_batch * of.images_per_class * (of.images_per_class - 1) // 2
    width, hidden = net.embedding_dim, net.unit_dim
    # Kernels of the head (at least 64 features) and of the unit, each with its gradient and two moments.
    weights = 4 * 4 * (64 * width + 2 * width * hidden + 2 * hidden**2)
    names = {
        "data.classes_per_batch, data.images_per_class and data.image_size": pixels
        * (PREFETCHED + 4)
        // processes
        + 16 * pairs,
        "network.embedding_dim and network.unit_dim": weights,
    }
    if of.name in IMAGES_IN_MEMORY:
        names["data.image_size"] = IMAGES_IN_MEMORY[of.name] * size**2
    return names


def memory() -> int:
    """Bytes of main memory; 2**62 if the system does not report them."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 2**62


def warnings(config: FrozenConfigDict) -> list[str]:
    """Warnings about settings that are allowed but probably unintended."""
    steps, warmup = config.train.steps, config.optimizer.warmup
    if warmup >= steps:
        return [
            f"optimizer.warmup {warmup} is not below train.steps {steps}: the learning rate does not reach "
            f"{config.optimizer.learning_rate:g}"
        ]
    return []
