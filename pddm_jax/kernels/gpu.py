"""The hardest partners of each image on a GPU: one Pallas kernel, which Triton compiles.

A program takes one tile of the pair matrix, row tile r against column tile c, r <= c. Programs run beside
each other, in no order:

1. A block of the rows at a time meets all columns. What its pairs have in each layer lives in registers and
   shared memory: of the branches, which do not fit, CHUNK features at a time. A branch need not be whole
   before it meets the joint layer, since normalising commutes with that: (z / |z|) W = (z W) / |z|.
2. Each pair i < j is seen from both of its images. For each image of r and of c the program writes its
   hardest negative and positive in this tile, and no score.
3. Outside of the kernel, plain JAX folds what all tiles have found.

Triton is said by its `CompilerParams`, since JAX's own choice differs by version; jax 0.11 warns that it
will leave Pallas. Checked in interpret mode, and compiled for an H100 by Triton alone; never run on a GPU,
so of its speed nothing is known.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from pddm_jax.kernels.unit import Weights, matmul, weights, widened
from pddm_jax.pairwise import inverse_sqrt
from pddm_jax.partners import NOBODY, Best, Extremes, best_partners, better, fold
from pddm_jax.types import Params

TILE = 32
"""Images along one side of a tile."""

JOINT = {"float32": 2**14, "bfloat16": 2**15}
"""Floats that the joint layer of the pairs of a block takes: so much that the registers nearly hold it, and
shared memory, 99 KiB on most cards, what goes into the products."""

CHUNK = {"float32": 16, "bfloat16": 64}
"""Features of a branch that are computed at a time, by the type of the products."""

WIDEST = 512
"""Features of the widest layer for which the shared memory is enough."""


def search(
    b: int,
    dtype: DTypeLike,
    params: Params,
    x: Float[Array, "n t d"],
    mean: Float[Array, "n t h"],
    classes: Int[Array, "n t"],
    steps: Int[Array, "s 2 g"],
    interpret: Any = False,
) -> Extremes:
    """The hardest partners of each of b images in some tiles (r, c), r <= c, of the pair matrix."""
    r, c = steps.swapaxes(0, 1).reshape(2, -1)
    widths = x.shape[-1], mean.shape[-1], len(params["score"]["kernel"])
    wide = max(64, *map(pl.next_power_of_2, widths))  # Triton takes no other numbers
    operands = r, c, widened(x, wide), widened(mean, wide), classes, *weights(params, dtype, wide)
    shape = len(r), 4, TILE
    value, partner = pl.pallas_call(
        partial(_kernel, b, dtype),
        grid=(len(r),),
        out_specs=[pl.BlockSpec((None, *shape[1:]), lambda s: (s, 0, 0))] * 2,
        out_shape=[jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.float32, jnp.int32)],
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=1),
        interpret=interpret,
        name="hardest_partners",
    )(*operands)

    nobody = Best(jnp.full(b, -jnp.inf), jnp.full(b, NOBODY))
    images = jnp.arange(classes.size).reshape(classes.shape)

    def folded(best: Best, tiles: Int[Array, " p"], kind: int) -> Best:
        found = Best(value[:, kind].ravel(), partner[:, kind].ravel())
        return fold(best, images[tiles].ravel(), found)

    later, earlier = folded(nobody, r, 1), folded(nobody, c, 3)
    negative = folded(folded(nobody, r, 0), c, 2)
    return Extremes(negative, better(earlier, later), later)


def _kernel(b: int, dtype: DTypeLike, r: Any, c: Any, x: Any, mean: Any, classes: Any, *refs: Any) -> None:
    *layers, value, partner = refs
    unit = Weights(*layers)
    rows = min(TILE, max(1, JOINT[jnp.dtype(dtype).name] // (TILE * unit.joint.shape[-1])))
    r, c = (tiles[pl.program_id(0)] for tiles in (r, c))
    column = c * TILE + jnp.arange(TILE)

    def block(k: Array, bests: tuple[Best, Best]) -> tuple[Best, ...]:
        """The scores of some rows: the bests of those images are whole, those of the columns so far."""
        at = pl.ds(k * rows, rows)
        scores = _scores(x[r, at], x[c], lambda f: (mean[r, at, f], mean[c, :, f]), unit, dtype)
        row = r * TILE + k * rows + jnp.arange(rows)
        here, there = jnp.broadcast_to(row[:, None], scores.shape), jnp.broadcast_to(column, scores.shape)
        pair, same = (here < there) & (there < b), classes[r, at][:, None] == classes[c][None]
        found = []
        for kind, (hard, mask) in enumerate(((scores, pair & ~same), (-scores, pair & same))):
            value[kind, at], partner[kind, at] = best_partners(hard, mask, there)
            found.append(better(bests[kind], best_partners(hard.T, mask.T, here.T)))
        return tuple(found)

    nobody = Best(jnp.full(TILE, -jnp.inf), jnp.full(TILE, NOBODY))
    bests = jax.lax.fori_loop(0, TILE // rows, block, (nobody, nobody))
    for kind, best in enumerate(bests):
        value[2 + kind, :], partner[2 + kind, :] = best


def _scores(
    x_r: Float[Array, "k d"],
    x_c: Float[Array, "t d"],
    means: Callable[[Any], tuple[Array, Array]],
    unit: Weights,
    dtype: DTypeLike,
) -> Float[Array, "k t"]:
    """Scores of k rows against a tile of columns; `means` gives some features of both sides' means."""
    h, c = unit.joint.shape[1:]
    chunk = CHUNK[jnp.dtype(dtype).name]

    def pairs(rows: Array, columns: Array) -> Float[Array, "p d"]:
        return (rows[:, None] + columns[None]).reshape(-1, rows.shape[-1])

    def over_chunks(step: Callable[[Any, PyTree], PyTree], start: PyTree) -> PyTree:
        return jax.lax.fori_loop(0, h // chunk, lambda k, x: step(pl.ds(k * chunk, chunk), x), start)

    difference = jnp.abs(pairs(x_r, -x_c)).astype(dtype)
    p = len(difference)

    def of_difference(f: Any, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
        joint, squared = so_far
        z = jax.nn.relu(matmul(difference, unit.difference[:, f]) + unit.difference_bias[:, f])
        return joint + matmul(z.astype(dtype), unit.joint[0, f]), squared + jnp.sum(z * z, axis=1)

    joint, squared = over_chunks(of_difference, (jnp.zeros((p, c)), jnp.zeros(p)))
    joint *= inverse_sqrt(squared)[:, None]

    # The length of the mean's branch takes no product: known first, it spares a second sum like `joint`.
    def mean(f: Any) -> Array:
        return jax.nn.relu(pairs(*means(f)))

    squared = over_chunks(lambda f, so_far: so_far + jnp.sum(jnp.square(mean(f)), axis=1), jnp.zeros(p))
    scale = inverse_sqrt(squared)[:, None]

    def of_mean(f: Any, joint: Array) -> Array:
        return joint + matmul((mean(f) * scale).astype(dtype), unit.joint[1, f])

    joint = jax.nn.relu(over_chunks(of_mean, joint) + unit.joint_bias[...])
    scores = jnp.sum(joint.astype(dtype).astype(jnp.float32) * unit.score[...], axis=1)
    return scores.reshape(len(x_r), len(x_c)) + unit.score_bias[...]
