"""The time and memory of train steps of experiments, on the devices of this machine and synthetic images.

    python -m benchmarks.steps cars196:tuned imagenet2010:gpu cars196:resnet50,network.microbatches=4

Each is FILE:VARIANT of `experiments/configs` and fields to change; weights are random, so no batch
statistics are frozen. The images are on the devices before the step. Columns:

- GiB: memory of the compiled step on each device, with arguments and results.
- TFLOP/s: the products and convolutions of the step, as traced, divided by its time; and those of a plain
  matrix product in bfloat16, measured in the same run.
"""

import ast
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from benchmarks.lib.compiled import CLASSES, experiment_config
from benchmarks.lib.operations import operations
from benchmarks.lib.report import arguments, report
from benchmarks.lib.stepper import Stepper
from benchmarks.lib.timing import interleaved
from pddm_jax.losses.objectives import has_classifier
from pddm_jax.sharding import data_mesh, global_batches
from pddm_jax.training.recipe import make_recipe
from pddm_jax.training.state import init_state
from pddm_jax.training.step import make_train_step
from pddm_jax.types import Batch


def config_of(text: str) -> ConfigDict:
    """A config with some fields changed; KeyError if it has no such field."""
    name, *others = text.split(",")
    config = experiment_config(name)
    config.network.update(pretrained=None, freeze_batch_stats=False)
    config.lock()
    for field, _, value in (other.partition("=") for other in others):
        *parts, last = field.split(".")
        try:
            reduce(getattr, parts, config)[last] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            reduce(getattr, parts, config)[last] = value
    return config


def row(text: str, side: int, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    config = config_of(text)
    recipe, mesh = make_recipe(FrozenConfigDict(config)), data_mesh()
    p, k, size = config.data.classes_per_batch, config.data.images_per_class, config.data.image_size
    images = np.random.default_rng(0).integers(0, 256, (p * k, size, size, 3), dtype=np.uint8)
    (batch,) = global_batches([Batch(images, np.repeat(np.arange(p, dtype=np.int32), k))], mesh)
    parts = recipe.network, recipe.unit, recipe.optimizer
    classes = CLASSES if has_classifier(recipe.objective) else 0
    state = init_state(*parts, images.shape[1:], 0, mesh, classes)
    step = make_train_step(recipe.network, recipe.loss, recipe.optimizer, mesh)
    traced = step.trace(state, batch)
    program = traced.lower().compile()

    square = jax.random.normal(jax.random.key(2), (side, side)).astype(jnp.bfloat16)
    product = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.bfloat16))
    took = interleaved(
        {"step": Stepper(program, state, batch), "GEMM": lambda: product(square, square)}, rounds, 5
    )
    held = program.memory_analysis()
    kept = held.argument_size_in_bytes + held.output_size_in_bytes - held.alias_size_in_bytes
    return {
        "step": text,
        "images": p * k,
        "pixels": size,
        "dtype": config.network.dtype,
        "ms": 1e3 * took["step"],
        "images/s": p * k / took["step"],
        "GiB": (kept + held.temp_size_in_bytes) / 2**30,
        "TFLOP/s": operations(traced.jaxpr.jaxpr).total() / took["step"] / 1e12,
        "GEMM, TFLOP/s": 2 * side**3 / took["GEMM"] / 1e12,
    }


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("configs", nargs="+", help="FILE:VARIANT[,FIELD=VALUE...]")
    parser.add_argument("--side", type=int, default=8192, help="rows of the plain product's matrices")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    report("steps", [row(text, given.side, given.rounds) for text in given.configs], given.out)


if __name__ == "__main__":
    main()
