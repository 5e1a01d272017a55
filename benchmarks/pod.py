"""The whole train step of a TPU pod, compiled without one, and what its program says of a step.

    pip install -e ".[tpu]"
    python -m benchmarks.pod [--networks googlenet resnet50] [--pods v5e:4x4 v5e:16x16]
    python -m benchmarks.pod --configs imagenet2010:pod --pods v5e:16x16

The step is the one that the experiments run: PDDM on a batch that is shared out over all chips, hard pairs
looked for in the whole of it; or with --configs that of an experiment's own config, of files in
experiments/configs. A row takes libtpu's compiler 2 to 60 minutes of a core, all of them hours, and
for 16 chips it may want more of a stack than the usual 8 MiB: `ulimit -s 524288` first.

Columns, for each chip:

- GiB: what it holds; or what the compiler says where that is too much for it.
- TFLOP: its share of the products and convolutions, as traced.
- in passes: the same in bfloat16, of which a float32 product of the scores takes six.
- GB memory: read and written, as the compiler counts it (a loop once).
- MB received: from other chips.
- ms at least: the longest of the three, each at the most that the chip can do. Nothing is run, so no
  step has taken this time.
"""

import importlib
import os
import re
import sys
import time
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding
from ml_collections import ConfigDict, FrozenConfigDict

from benchmarks.hlo import received_bytes
from benchmarks.operations import operations
from benchmarks.report import arguments, report
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
"""Of a classifier, where the objective has one: ImageNet's."""


class Chip(NamedTuple):
    """What a chip can do at most, a second."""

    operations: float  # in bfloat16
    memory: float  # bytes read or written
    received: float  # bytes from other chips: half of what its links carry both ways


CHIPS = {
    "v5e": Chip(197e12, 819e9, 200e9),
    "v5p": Chip(459e12, 2765e9, 600e9),
    "v6e": Chip(918e12, 1638e9, 400e9),
}
"""As docs.cloud.google.com/tpu/docs/v5e, v5p and v6e say."""

NO_TPU = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""So that libtpu looks for no machine around it."""


def without_a_tpu() -> None:
    """Run on the CPU, and compile for chips that are not there."""
    jax.config.update("jax_platforms", "cpu")
    for name, value in NO_TPU.items():
        os.environ.setdefault(name, value)


PODS = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16")
COLUMNS = ("compiled s", "GiB", "TFLOP", "in passes", "GB memory", "MB received", "ms at least", "bound by")


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
    """What there is to know of the compiled step for each device, in bytes, operations and seconds."""
    recipe, mesh = make_recipe(FrozenConfigDict(config)), data_mesh(devices)
    batch, side = config.data.classes_per_batch * config.data.images_per_class, config.data.image_size
    classes = CLASSES if has_classifier(recipe.objective) else 0
    learned = recipe.network, recipe.unit, recipe.optimizer
    init = partial(init_state, *learned, (side, side, 3), 0, mesh, classes)

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


def figures(found: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """What was found, for the table."""
    passes = sum(n * count for n, count in found["operations"].items())
    received = sum(found["received"].values())
    seconds = {
        "products": passes / chip.operations,
        "memory": found["memory"] / chip.memory,
        "links": received / chip.received,
    }
    by = max(seconds, key=lambda name: seconds[name])
    values = (
        found["seconds"],
        found["held"] / 2**30,
        sum(found["operations"].values()) / 1e12,
        passes / 1e12,
        found["memory"] / 1e9,
        received / 1e6,
        1e3 * seconds[by],
        by,
    )
    return dict(zip(COLUMNS, values, strict=True))


def row(step: str, pod: str, config: ConfigDict) -> dict[str, Any]:
    """A row of the table."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=pod).devices
    name = {"step": step, "pod": pod, "chips": len(devices)}
    try:
        return name | figures(compile_step(config, devices), CHIPS[pod.split(":")[0]])
    except jax.errors.JaxRuntimeError as error:
        wants = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        if not wants:
            raise
        return name | dict.fromkeys(COLUMNS, "-") | {"GiB": f"{wants[1]} of {wants[2]}"}


def main() -> None:
    """Compile, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", default=["googlenet", "resnet50"])
    parser.add_argument("--configs", nargs="+", help="experiments, in place of all flags but --pods")
    parser.add_argument("--pods", nargs="+", default=PODS, help="as libtpu names them")
    parser.add_argument("--batch", type=int, default=8192, help="images, on all chips together")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--d", type=int, default=512, help="width of embeddings and of the unit")
    parser.add_argument("--dtype", default="bfloat16", help="what the network computes in")
    given = parser.parse_args()
    without_a_tpu()
    fields = {"embedding_dim": given.d, "unit_dim": given.d, "dtype": given.dtype}
    if given.configs:
        configs, more = {name: experiment_config(name) for name in given.configs}, {}
    else:
        configs = {name: pod_config(name, given.batch, given.size, fields) for name in given.networks}
        more = {"batch": given.batch, "size": given.size, **fields}
    rows = []
    for name, config in configs.items():
        for pod in given.pods:
            rows.append(row(name, pod, config))
            print(" ".join(map(str, rows[-1].values())), file=sys.stderr, flush=True)
    more["libtpu"] = version("libtpu")
    print(", ".join(f"{name} {value}" for name, value in more.items()))
    report("pod", rows, given.out, **more)


if __name__ == "__main__":
    main()
