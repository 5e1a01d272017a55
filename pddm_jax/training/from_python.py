"""The set-up of a run whose images, network, optimizer or objective are given from Python."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from pddm_jax.config import defaults
from pddm_jax.config.check import accepted, check_machine, warnings
from pddm_jax.config.old_names import NEW_NAMES
from pddm_jax.config.rules import RULES, suggestion
from pddm_jax.data import Images, PKSampler, hold_out
from pddm_jax.data.from_python import ARRAYS, PATHS, fitted
from pddm_jax.data.storage.decode import Encoded
from pddm_jax.data.transforms import Transform
from pddm_jax.losses.objectives import Loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.sharding import data_mesh
from pddm_jax.system.cli import check_folder
from pddm_jax.system.console import print_in_process_0
from pddm_jax.system.lock import Lock
from pddm_jax.training.own_objects import check_loss, check_module, describe, kind_of, own_network
from pddm_jax.training.provenance import digest_of_images
from pddm_jax.training.recipe import Recipe, make_recipe
from pddm_jax.training.resume import check_same_run
from pddm_jax.training.setup import Training

IMAGE_SIZE = 64
"""Pixels to which images of many sizes are resized, by default."""

ARGUMENTS = {
    "steps": "train.steps",
    "seed": "seed",
    "network": "network.name",
    "objective": "objective.name",
    "images": "data.name",
}
"""Fields of the config that are given as arguments."""

OF_DATA_SETS = (
    *("evaluation", "data.root", "data.classes", "data.ground_truth", "data.crop", "data.on_error"),
    *("data.max_pixels", "data.test_classes", "data.seen_test", "train.nmi"),
)
"""Fields that nothing reads where images are given from Python."""


@dataclass(frozen=True)
class Given:
    """The arguments of `pddm_jax.train` other than images.

    Attributes:
        objective: its name, or a function (params, embeddings, labels) -> (loss, logs).
        network: its name, or a module.
        optimizer: None: that of the config.
        steps: of training.
        seed: of weights, batches and augmentation.
        fields: other fields of the config, by dotted name.
    """

    objective: str | Loss
    network: str | nn.Module
    optimizer: optax.GradientTransformation | None
    steps: int
    seed: int
    fields: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raise a ValueError for what no run can use, before images are read."""
        if not isinstance(self.network, str):
            check_module(self.network, "a name or ")
        if not (isinstance(self.objective, str) or callable(self.objective)):
            raise ValueError(f"objective must be a name or a function, got {kind_of(self.objective)}")
        if self.optimizer is not None and not isinstance(self.optimizer, optax.GradientTransformation):
            raise ValueError(
                f"optimizer must be an optax.GradientTransformation, got {kind_of(self.optimizer)}"
            )
        for name in ("steps", "seed"):
            value = _plain(getattr(self, name))
            RULES[ARGUMENTS[name]].check(name, value)
            object.__setattr__(self, name, value)
        if not isinstance(self.fields, Mapping):
            raise ValueError(f"config must be a dict of fields by name, got {kind_of(self.fields)}")
        for name in self.fields:
            _check_field(name)
            self._check_used(name)
        self.config(PATHS, None)

    def _check_used(self, name: str) -> None:
        """Raise a ValueError for a field of a group that was given as a Python object."""
        group, field = name.partition(".")[0], name.rpartition(".")[2]
        own = {
            "optimizer": self.optimizer is not None,
            "objective": not isinstance(self.objective, str),
            "network": isinstance(self.network, EmbeddingNetwork) and field != "unit_dim",
        }
        if own.get(group):
            raise ValueError(
                f"config: {name} has no effect if {group} is a Python object: give only one of them"
            )

    def config(self, kind: str, classes: int | None) -> FrozenConfigDict:
        """The config for images of a kind, `ARRAYS` or `PATHS`, of so many classes."""
        fields = {**defaults.get_config("tuned").to_dict(), "seed": self.seed}
        fields["train"]["steps"] = self.steps
        data = fields["data"]
        data["name"] = kind
        if kind == PATHS:
            data.update(augment="crop", image_size=IMAGE_SIZE)
        if classes:
            data["classes_per_batch"] = min(data["classes_per_batch"], max(classes, 2))
        if isinstance(self.objective, str):
            fields["objective"]["name"] = self.objective
        if isinstance(self.network, str):
            fields["network"]["name"] = self.network
        if self.optimizer is not None:
            fields["optimizer"]["schedule"] = "constant"  # its own schedule is not known
        for name, value in self.fields.items():
            group, _, field = name.rpartition(".")
            (fields[group] if group else fields)[field] = _plain(value)
        config = accepted(ConfigDict(fields))
        for field in ("pretrained", "remat", "freeze_batch_stats"):
            if isinstance(self.network, nn.Module) and fields["network"][field]:
                raise ValueError(
                    f"network.{field} applies only to built-in networks, but network is a module: leave "
                    "it out"
                )
        own = {"network": self.network, "optimizer": self.optimizer, "objective": self.objective}
        named = {name: describe(x) for name, x in own.items() if x is not None and not isinstance(x, str)}
        return FrozenConfigDict({**config.to_dict(), "python": named}) if named else config

    def recipe(self, config: FrozenConfigDict) -> Recipe:
        """The recipe of the config, with what was given in place of what it names."""
        recipe = make_recipe(config)
        if not isinstance(self.objective, str):
            recipe = recipe._replace(loss=self.objective, objective={"name": describe(self.objective)})
        if isinstance(self.network, nn.Module):
            recipe = recipe._replace(network=own_network(config, self.network))
        if self.optimizer is not None:
            recipe = recipe._replace(optimizer=self.optimizer)
        return recipe

    @contextmanager
    def training(self, workdir: Path, images: Images, test: Images | None) -> Iterator[Training]:
        """The training of a run in a workdir, which is locked until the block ends.

        Raises:
            ValueError: the images do not fit the config, or workdir holds another run or is in use.
        """
        _check_classes(images, test)
        kind, train_sha256 = (
            ARRAYS if isinstance(images.images, np.ndarray) else PATHS,
            digest_of_given(images),
        )
        config = self.config(kind, classes_of_two(images))
        if config.data.val_class_fraction:
            if test is not None:
                raise ValueError("test_images must not be given with data.val_class_fraction")
            images, test = hold_out(images, config.data.val_class_fraction, config.seed)
            config = self.config(kind, classes_of_two(images))
        recipe = _with_test_images_fitted(self.recipe(config), images)
        _check_size(config, images, "data.image_size" in self.fields)
        check_folder("workdir", workdir)
        check_machine(config, jax.device_count(), jax.process_count())
        p, k = config.data.classes_per_batch, config.data.images_per_class
        PKSampler(images.labels, p, k, range(1), config.seed)  # raises if there are too few classes
        training = Training(config, recipe, images, test, train_sha256, data_mesh())
        check_loss(training)
        for warning in [] if self.optimizer else warnings(config):
            print_in_process_0(f"warning: {warning}")
        with Lock(workdir, "workdir"):
            check_same_run(workdir, config)
            yield training


def classes_of_two(images: Images) -> int:
    """The number of classes that have two images or more."""
    return int((np.unique(images.labels, return_counts=True)[1] > 1).sum())


def _check_classes(images: Images, test: Images | None) -> None:
    """Raise a ValueError unless there are images to compare."""
    usable = classes_of_two(images)
    if usable < 2:
        raise ValueError(
            f"labels: training needs at least 2 classes with at least 2 images each, got {usable}"
        )
    if test is not None and not classes_of_two(test):
        raise ValueError("test_labels: evaluation needs a class with at least 2 images, got none")


def _check_size(config: FrozenConfigDict, images: Images, sized: bool) -> None:
    """Raise a ValueError for fields that do not fit images that keep their size; `sized`: one is given."""
    if config.data.augment != "shift":
        return
    if sized:
        raise ValueError(
            'data.image_size needs data.augment="crop": the images of an array keep their size'
        )
    side = min(images.images[0].shape[:2])
    if config.data.shift >= side:
        raise ValueError(f"data.shift must be below the image size, {side} pixels, got {config.data.shift}")


def _with_test_images_fitted(recipe: Recipe, images: Images) -> Recipe:
    """The recipe, which gives test images of any size the shape of the training images, as `Run.embed`."""
    train, test = recipe.transform
    shape = test(images.images[0]).shape
    return recipe._replace(transform=Transform(train, partial(fitted, test, shape)))


def _check_field(name: object) -> None:
    """Raise a ValueError unless a run from Python reads the field of a name."""
    if name in NEW_NAMES:
        raise ValueError(f"config: {name} is called {NEW_NAMES[str(name)]} now")
    for argument, field in ARGUMENTS.items():
        if name == field:
            raise ValueError(f"config: {name} is given by the argument {argument}")
    if name in OF_DATA_SETS or (name in RULES and str(name).startswith(("transfer.", "zero_shot."))):
        raise ValueError(f"config: {name} is for the data sets of commands, not for images from Python")
    if name not in RULES:
        allowed = [field for field in RULES if field not in (*OF_DATA_SETS, *ARGUMENTS.values())]
        raise ValueError(f"config: {name!r} is not a config field: {suggestion(str(name), allowed)}")


def digest_of_given(images: Images) -> str:
    """SHA-256 of labels and pixels in memory, or of class names, labels and file names, in order."""
    sha = hashlib.sha256(np.ascontiguousarray(images.labels).data)
    if isinstance(images.images, Encoded):
        names = [Path(images.images.name(number)).name for number in range(len(images.labels))]
        sha.update("\n".join([digest_of_images(images), *names]).encode("utf-8", "surrogateescape"))
        return sha.hexdigest()
    for number in range(len(images.images)):
        pixels = np.ascontiguousarray(images.images[number])
        sha.update(str(pixels.shape).encode())
        sha.update(pixels.data)
    return sha.hexdigest()


def _plain(value: Any) -> Any:
    """A scalar of NumPy as the number or string of Python that it is; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value
