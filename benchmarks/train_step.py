"""The time of a train step (forward, backward and update), compared with PyTorch on the same network.

    pip install -e ".[peers]"
    python -m benchmarks.train_step [--classes 24] [--each 4] [--size 32]
    python -m benchmarks.train_step --network googlenet --size 224 --classes 32

PyTorch has the small network in channels-last, PDDM in plain PyTorch (all pairs at once) and
multi-similarity by pytorch-metric-learning. PyTorch runs on all cores, the project as its commands do (see
experiments/machine.py; PyTorch then has huge pages too). They take turns within one process; times are
medians. Other networks are not compared with PyTorch. "mining" is the scoring and mining of a batch alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from benchmarks.lib.report import arguments, report
from benchmarks.lib.stepper import Stepper
from benchmarks.lib.timing import interleaved
from experiments import machine
from pddm_jax import PDDM, mine_quadruplets_fused
from pddm_jax.config import defaults
from pddm_jax.sharding import data_mesh, global_batches
from pddm_jax.training.recipe import make_recipe
from pddm_jax.training.state import init_state
from pddm_jax.training.step import make_train_step
from pddm_jax.types import Batch

OBJECTIVES = ("pddm", "multi_similarity")


def our_step(images: np.ndarray, labels: np.ndarray, network: str, objective: str) -> Callable[[], Any]:
    """A train step of this project, which continues from call to call."""
    config = defaults.get_config("tuned")
    config.network.name, config.objective.name = network, objective
    if network != "small_cnn":
        config.network.update(embedding_dim=0, unit_dim=128)
    each = int((labels == labels[0]).sum())
    batch = {"classes_per_batch": len(labels) // each, "images_per_class": each}
    config.data.update(**batch, image_size=images.shape[1])
    recipe, mesh = make_recipe(FrozenConfigDict(config)), data_mesh()
    train_step = make_train_step(recipe.network, recipe.loss, recipe.optimizer, mesh)
    state = init_state(recipe.network, recipe.unit, recipe.optimizer, images.shape[1:], 0, mesh)
    (share,) = global_batches([Batch(images, labels)], mesh)

    return Stepper(train_step, state, share)


def mining(labels: np.ndarray, network: str) -> Callable[[], Any]:
    """The scoring and mining of a batch, at the widths of the step."""
    d, width = (64, 32) if network == "small_cnn" else (1024, 128)
    key = jax.random.key(0)
    x = jax.random.normal(key, (len(labels), d)) / d**0.5
    params = PDDM(width, width).init(key, x[:1], x[:1])["params"]
    pairs = int(np.triu(labels[:, None] == labels, 1).sum())
    return lambda: mine_quadruplets_fused(params, x, labels, "positive", pairs).i


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--network", default="small_cnn")
    parser.add_argument("--classes", type=int, default=24)
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=5)
    given = parser.parse_args()
    b = given.classes * given.each
    machine.use_huge_pages()
    machine.use_all_cores(given.network, b)

    images = np.random.default_rng(0).integers(0, 256, (b, given.size, given.size, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(given.classes), given.each)
    rows = []
    for objective in OBJECTIVES:
        functions = {"ours": our_step(images, labels, given.network, objective)}
        if given.network == "small_cnn":
            from benchmarks.lib.torch_step import torch_step

            functions["PyTorch"] = torch_step(images, labels, objective)
        if objective == "pddm":
            functions["mining"] = mining(labels, given.network)
        took = interleaved(functions, given.rounds, given.calls)
        rows.append(
            {
                "step": f"{given.network}, {b} x {given.size} x {given.size} x 3, {objective}",
                "ours, ms": 1e3 * took["ours"],
                "PyTorch, ms": 1e3 * took["PyTorch"] if "PyTorch" in took else "-",
                "ratio": took["ours"] / took["PyTorch"] if "PyTorch" in took else "-",
                "mining, ms": 1e3 * took["mining"] if "mining" in took else "-",
            }
        )
    report("train_step", rows, given.out)


if __name__ == "__main__":
    main()
