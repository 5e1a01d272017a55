"""What a batch gives wherever it is put; as a program, on all devices of all its processes.

python -m tests.helpers.shared_out OUT.npz [COORDINATOR RANK]
"""

import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import pddm_jax
from pddm_jax.losses.objectives import make_objective
from pddm_jax.pddm import backends
from pddm_jax.pddm import tiles as tile_scores
from pddm_jax.pddm.backends import search_with
from pddm_jax.pddm.kernels import tpu

B, RAGGED, WIDTH, EACH = 104, 37, 12, 4  # B divides over eight devices, RAGGED does not
SETTINGS = {(tile_scores, "STEP"): 2**13, (backends, "scan"): jax.lax.scan, (tpu, "TILE"): 16}
"""31 steps for B, which do not divide over eight either; loops that compile sooner; 28 tiles by kernel."""
STEPS = 31
OBJECTIVES = ("pddm", "quadruplet", "multi_similarity", "softmax")


def batch(b):
    """Embeddings of which some are copies, far apart in the batch; classes in no order; a unit."""
    rng = np.random.default_rng(b)
    x = rng.normal(size=(b, WIDTH)).astype(np.float32)[rng.integers(0, 2 * b // 3, b)]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    widths = {"difference": (WIDTH, 8), "mean": (WIDTH, 8), "joint": (16, 9), "score": (9, 1)}
    params = {
        layer: {
            "kernel": rng.normal(size=shape).astype(np.float32) / 3,
            "bias": np.zeros(shape[1], np.float32),
        }
        for layer, shape in widths.items()
    }
    return params, x, rng.permutation(np.arange(b, dtype=np.int32) // EACH)


def found(place=lambda tree, spread: tree, **shardings):
    """Arrays by name: quadruplets, losses with their gradients. `place` puts a batch on the devices."""
    params, *images = batch(RAGGED)
    mine = jax.jit(pddm_jax.mine_quadruplets_fused, **shardings)
    mined = mine(place(params, False), *place(images, False))
    results = {f"mined {name}": index for name, index in mined._asdict().items()}
    unit, *images = batch(B)
    kernel = backends.TPUBackend(tpu.TILE, interpret=True)
    mine = jax.jit(partial(search_with, backend=kernel, dtype="float32"), **shardings)
    extremes = mine(place(unit, False), *place(images, True))
    results |= {f"mined by a kernel, {name}": best.partner for name, best in extremes._asdict().items()}
    classifier = np.random.default_rng(0).normal(size=(WIDTH, B // EACH)).astype(np.float32)
    params = {"unit": unit, "classifier": {"kernel": classifier}}
    for name in OBJECTIVES:
        loss, _ = make_objective(name, pairs=B * (EACH - 1) // 2)
        step = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        step = jax.jit(lambda p, x, y, step=step: step(p, x, y), **shardings)
        step = step.lower(place(params, False), *place(images, True)).compile()
        leaves = jax.tree.leaves(step(place(params, False), *place(images, True)))
        results |= {f"{name} {n}": leaf for n, leaf in enumerate(leaves)}
        text = step.as_text()
        shapes = [tuple(map(int, shape.split(","))) for shape in re.findall(r"\w\d+\[([\d,]+)\]", text)]
        results[f"{name} sides"] = max(shape.count(B) for shape in shapes)
        results[f"{name} loops"] = sorted(
            {int(n) for n in re.findall(r'known_trip_count":{"n":"(\d+)"', text)}
        )
    return {name: np.asarray(value) for name, value in results.items()}


def main(out, coordinator=None, rank="0"):
    if coordinator:
        jax.distributed.initialize(
            coordinator, 2, int(rank), initialization_timeout=60, shutdown_timeout_seconds=30
        )
    from pddm_jax.sharding import data_mesh, replicated, sharded

    mesh = data_mesh()

    def place(tree, spread):
        where = sharded(mesh) if spread else replicated(mesh)
        return jax.tree.map(
            lambda x: jax.make_array_from_callback(x.shape, where, lambda index: np.asarray(x)[index]), tree
        )

    for (module, name), value in SETTINGS.items():
        setattr(module, name, value)
    results = found(place, out_shardings=replicated(mesh))
    np.savez(out, devices=jnp.array(jax.device_count()), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
