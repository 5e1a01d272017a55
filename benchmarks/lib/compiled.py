"""The train step of a config, compiled for devices that may be absent, and the figures of its program."""

import importlib
import os
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from ml_collections import ConfigDict, FrozenConfigDict

from benchmarks.lib.hlo import received_bytes
from benchmarks.lib.operations import operations
from experiments.configs import photos
from pddm_jax.losses.objectives import has_classifier
from pddm_jax.sharding import data_mesh, replicated, sharded
from pddm_jax.training.recipe import make_recipe
from pddm_jax.training.state import init_state
from pddm_jax.training.step import make_train_step
from pddm_jax.types import Batch

EACH = 8
"""Images of a class in a batch."""

CLASSES = 1000
"""Classes of the classifier of an objective that has one, as in ImageNet."""


NO_TPU = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""Environment in which libtpu looks for no TPU."""


def without_a_tpu() -> None:
    """Run on the CPU, to compile for absent chips."""
    jax.config.update("jax_platforms", "cpu")
    for name, value in NO_TPU.items():
        os.environ.setdefault(name, value)


def pod_config(network: str, batch: int, size: int, fields: dict[str, Any]) -> ConfigDict:
    """The fields of an experiment on photographs, from random weights, at the scale of a pod."""
    config = photos.get_config("resnet50", "sop")
    config.data.update(image_size=size, classes_per_batch=batch // EACH, images_per_class=EACH)
    config.network.update(name=network, freeze_batch_stats=False, **fields)
    return config


def experiment_config(name: str) -> ConfigDict:
    """The fields of an experiment: FILE or FILE:VARIANT, as its own command takes them."""
    file, _, variant = name.partition(":")
    return importlib.import_module(f"experiments.configs.{file}").get_config(*filter(None, [variant]))


def compile_step(config: ConfigDict, devices: list[jax.Device]) -> dict[str, Any]:
    """The figures of the compiled step for each device: bytes, operations, and seconds of compilation."""
    recipe, mesh = make_recipe(FrozenConfigDict(config)), data_mesh(devices)
    batch, side = config.data.classes_per_batch * config.data.images_per_class, config.data.image_size
    classes = CLASSES if has_classifier(recipe.objective) else 0
    parts = recipe.network, recipe.unit, recipe.optimizer
    init = partial(init_state, *parts, (side, side, 3), 0, mesh, classes)

    def on(sharding: NamedSharding, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state = jax.tree.map(lambda x: on(replicated(mesh), x.shape, x.dtype), jax.eval_shape(init))
    images = on(sharded(mesh), (batch, side, side, 3), jnp.uint8)
    labels = on(sharded(mesh), (batch,), jnp.int32)
    since = time.perf_counter()
    step = make_train_step(recipe.network, recipe.loss, recipe.optimizer, mesh)
    traced = step.trace(state, Batch(images, labels))
    program = traced.lower().compile()
    held = program.memory_analysis()
    return {
        "seconds": time.perf_counter() - since,
        "held": held.argument_size_in_bytes
        + held.output_size_in_bytes
        + held.temp_size_in_bytes
        - held.alias_size_in_bytes,
        "temporary": held.temp_size_in_bytes,
        "operations": {n: count / mesh.size for n, count in operations(traced.jaxpr.jaxpr).items()},
        "memory": program.cost_analysis()["bytes accessed"],
        "received": received_bytes(program.as_text()),
    }
