"""The hardest partners of each image on a TPU: one Pallas kernel, which Mosaic compiles.

A step of the grid takes one tile of the pair matrix, row tile r against column tile c, r <= c:

1. The scores of its TILE x TILE pairs, ROWS rows at a time: what a pair has in each layer lives only in
   VMEM, and only for those rows. The scores go to a scratch matrix, which the next step writes over.
2. Each pair i < j is seen from both of its images. Seen from the column image j, the candidates are the
   column of the scores; seen from the row image i, that of the scores transposed. So both times a reduction
   over the first axis gives a row of TILE bests, an image a lane.
3. They are folded into the running bests of all images, which stay in VMEM over the whole grid: steps of a
   grid follow each other on a TPU. Nothing else leaves the kernel.

Checked in interpret mode, and compiled for v5e, v5p and v6e by libtpu; never run on a TPU, so of its speed
nothing is known.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.numerics import inverse_sqrt
from pddm_jax.pddm.kernels.weights import Weights, matmul, weights, widened
from pddm_jax.pddm.partners import NOBODY, Best, Extremes, better
from pddm_jax.types import Params

TILE = 128
"""Images along one side of a tile: the lanes of a register."""

ROWS = 8
"""Rows of a tile that are scored together."""

VMEM = 64 * 2**20
"""Bytes of VMEM that the kernel may take, of 128 MiB on a v5e (16 MiB by default)."""

NEGATIVE, EARLIER, LATER = range(3)
"""What is kept for each image: its hardest negative; its hardest positive before it, and after it."""


def takes(dtype: DTypeLike, d: int, hidden: int, joint: int) -> bool:
    """Whether the kernel was compiled for units of these widths."""
    del dtype
    return max(d, hidden, joint) <= 512


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
    x, mean = widened(x, TILE), widened(mean, TILE)
    operands = x, mean, classes[:, None]
    unit = weights(params, dtype, TILE)
    shape = len(x), 3, TILE

    def tile(array: Array, side: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda s, *rc: (rc[side][s], 0, 0))

    def whole(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda s, *rc: (0,) * len(shape))

    value, partner = pl.pallas_call(
        partial(_kernel, b, dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(len(r),),
            in_specs=[
                *(tile(array, side) for side in (0, 1) for array in operands),
                *(whole(array.shape) for array in unit),
            ],
            out_specs=[whole(shape), whole(shape)],
            scratch_shapes=[pltpu.VMEM((TILE, TILE), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(shape, kind) for kind in (jnp.float32, jnp.int32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), vmem_limit_bytes=VMEM),
        interpret=interpret,
        name="hardest_partners",
    )(r, c, *operands, *operands, *unit)
    value, partner = (array.swapaxes(0, 1).reshape(3, -1)[:, :b] for array in (value, partner))
    negative, earlier, later = map(Best, value, partner)
    return Extremes(negative, better(earlier, later), later)


def _kernel(
    b: int,
    dtype: DTypeLike,
    r: Any,
    c: Any,
    x_r: Any,
    mean_r: Any,
    classes_r: Any,
    x_c: Any,
    mean_c: Any,
    classes_c: Any,
    *refs: Any,
) -> None:
    *unit, value, partner, scores = refs
    step = pl.program_id(0)

    @pl.when(step == 0)
    def start() -> None:
        value[...] = jnp.full(value.shape, -jnp.inf)
        partner[...] = jnp.full(partner.shape, NOBODY)

    @pl.loop(0, TILE, step=ROWS)
    def score(first: Array) -> None:
        rows = pl.ds(first, ROWS)
        scores[rows] = _scores(x_r[rows], mean_r[rows], x_c[...], mean_c[...], Weights(*unit), dtype)

    lane = jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
    r, c = r[step], c[step]

    def see(
        own: Array, other: Array, scores: Array, own_class: Array, other_class: Array, side: int
    ) -> None:
        """Fold in the best of each column of the scores: `own` are the images of the columns."""
        mine, theirs = own * TILE + lane, other * TILE + lane.T
        pair = (theirs < mine) & (mine < b) if side == EARLIER else (mine < theirs) & (theirs < b)
        same = own_class == jnp.broadcast_to(other_class, (TILE, TILE)).T
        for kind, hard, mask in ((NEGATIVE, scores, pair & ~same), (side, -scores, pair & same)):
            hard = jnp.where(mask, hard, -jnp.inf)
            best = jnp.max(hard, axis=0, keepdims=True)
            who = jnp.min(jnp.where(mask & (hard == best), theirs, NOBODY), axis=0, keepdims=True)
            at = own, pl.ds(kind, 1)
            value[at], partner[at] = better(Best(value[at], partner[at]), Best(best, who))

    see(c, r, scores[...], classes_c[...], classes_r[...], EARLIER)
    see(r, c, scores[...].T, classes_r[...], classes_c[...], LATER)


def _scores(
    x_r: Float[Array, "k d"],
    mean_r: Float[Array, "k h"],
    x_c: Float[Array, "t d"],
    mean_c: Float[Array, "t h"],
    unit: Weights,
    dtype: DTypeLike,
) -> Float[Array, "k t"]:
    """Scores of k rows against a tile of columns."""

    def pairs(rows: Array, columns: Array) -> Float[Array, "p d"]:
        return (rows[:, None] + columns[None]).reshape(-1, rows.shape[-1])

    def branch(z: Float[Array, "p h"]) -> Float[Array, "p h"]:
        z = jax.nn.relu(z)
        return (z * inverse_sqrt(jnp.sum(jnp.square(z), axis=-1, keepdims=True))).astype(dtype)

    difference = matmul(jnp.abs(pairs(x_r, -x_c)).astype(dtype), unit.difference[...])
    joint = matmul(branch(difference + unit.difference_bias[...]), unit.joint[0])
    joint += matmul(branch(pairs(mean_r, mean_c)), unit.joint[1])
    joint = jax.nn.relu(joint + unit.joint_bias[...]).astype(dtype).astype(jnp.float32)
    scores = (joint * unit.score[...]).reshape(len(x_r), len(x_c), -1)
    return jnp.sum(scores, axis=-1) + unit.score_bias[...]
