"""The hardest partners of each image on a TPU: one Pallas kernel, compiled by Mosaic.

A step of the grid takes one tile of the pair matrix, row tile r against column tile c, r <= c:

1. It scores the TILE x TILE pairs, ROWS rows at a time: the activations of a pair exist only in VMEM, and
   only for those rows. The scores are written to a scratch matrix, which the next step overwrites.
2. Each pair i < j is a candidate for both of its images. The candidates of the column image j are a column
   of the scores, those of the row image i a column of the transposed scores. So both times a reduction over
   the first axis gives a row of TILE bests, one image for each lane.
3. The bests are folded into the running bests of all images, which stay in VMEM over the whole grid: a TPU
   runs the steps of a grid in order. Nothing else leaves the kernel.

Tested in interpret mode, and compiled for v5e, v5p and v6e by libtpu. It was never run on a TPU; its
speed is not known.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.numerics import inverse_sqrt
from pddm_jax.pddm.kernels.weights import Weights, matmul, unit_weights, widened
from pddm_jax.pddm.partners import NO_PARTNER, Best, Extremes, better
from pddm_jax.pddm.tiles import TiledBatch, Tiles, UnitWidths

TILE = 128
"""Images along one side of a tile: the lanes of a register."""

ROWS = 8
"""Rows of a tile that are scored together."""

VMEM = 64 * 2**20
"""Bytes of VMEM that the kernel may use, of 128 MiB on a v5e (16 MiB by default)."""

NEGATIVE, EARLIER, LATER = range(3)
"""The running bests of each image: its hardest negative, and its hardest positive before and after it."""


def supports(dtype: DTypeLike, widths: UnitWidths) -> bool:
    """Whether the kernel was compiled for units of these widths."""
    del dtype
    return max(widths) <= 512


class _Side(NamedTuple):
    """One side of a tile of the pair matrix: its images and their classes."""

    x: Any
    mean: Any
    classes: Any


def search(batch: TiledBatch, steps: Int[Array, "s 2 g"], interpret: Any = False) -> Extremes:
    """The hardest partners of each image of a batch in some tiles (r, c), r <= c, of the pair matrix."""
    r, c = steps.swapaxes(0, 1).reshape(2, -1)
    x, mean = (widened(array, TILE) for array in batch.tiles)
    operands = _Side(x, mean, batch.classes[:, None])
    unit = unit_weights(batch.params, batch.dtype, TILE)
    shape = len(x), 3, TILE

    def tile(array: Array, side: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *array.shape[1:]), lambda s, *rc: (rc[side][s], 0, 0))

    def whole(shape: tuple[int, ...]) -> pl.BlockSpec:
        return pl.BlockSpec(shape, lambda s, *rc: (0,) * len(shape))

    kernel = pl.pallas_call(
        partial(_kernel, batch.size, batch.dtype),
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
    )
    found = kernel(r, c, *operands, *operands, *unit)
    value, partner = (array.swapaxes(0, 1).reshape(3, -1)[:, : batch.size] for array in found)
    negative, earlier, later = map(Best, value, partner)
    return Extremes(negative, better(earlier, later), later)


def _kernel(b: int, dtype: DTypeLike, *refs: Any) -> None:
    """One tile of a batch of b images."""
    row_tile, column_tile = refs[:2]
    rows, columns = _Side(*refs[2:5]), _Side(*refs[5:8])
    *unit, value, partner, scores = refs[8:]
    step = pl.program_id(0)

    @pl.when(step == 0)
    def start() -> None:
        value[...] = jnp.full(value.shape, -jnp.inf)
        partner[...] = jnp.full(partner.shape, NO_PARTNER)

    @pl.loop(0, TILE, step=ROWS)
    def score(first: Array) -> None:
        part = pl.ds(first, ROWS)
        some = Tiles(rows.x[part], rows.mean[part])
        scores[part] = _scores(some, Tiles(columns.x[...], columns.mean[...]), Weights(*unit), dtype)

    lane = jax.lax.broadcasted_iota(jnp.int32, (TILE, TILE), 1)
    r, c = row_tile[step], column_tile[step]

    def update(scores: Array, own: tuple[Array, Array], other: tuple[Array, Array], side: int) -> None:
        """Fold in the best of each column of the scores: `own` are tile and classes of the columns."""
        (own_tile, own_class), (other_tile, other_class) = own, other
        mine, theirs = own_tile * TILE + lane, other_tile * TILE + lane.T
        pair = (theirs < mine) & (mine < b) if side == EARLIER else (mine < theirs) & (theirs < b)
        same = own_class == jnp.broadcast_to(other_class, (TILE, TILE)).T
        for kind, hard, mask in ((NEGATIVE, scores, pair & ~same), (side, -scores, pair & same)):
            hard = jnp.where(mask, hard, -jnp.inf)
            best = jnp.max(hard, axis=0, keepdims=True)
            who = jnp.min(jnp.where(mask & (hard == best), theirs, NO_PARTNER), axis=0, keepdims=True)
            at = own_tile, pl.ds(kind, 1)
            value[at], partner[at] = better(Best(value[at], partner[at]), Best(best, who))

    update(scores[...], (c, columns.classes[...]), (r, rows.classes[...]), EARLIER)
    update(scores[...].T, (r, rows.classes[...]), (c, columns.classes[...]), LATER)


def _scores(rows: Tiles, columns: Tiles, unit: Weights, dtype: DTypeLike) -> Float[Array, "k t"]:
    """Scores of k rows against a tile of columns."""

    def pairs(rows: Array, columns: Array) -> Float[Array, "p d"]:
        return (rows[:, None] + columns[None]).reshape(-1, rows.shape[-1])

    def branch(z: Float[Array, "p h"]) -> Float[Array, "p h"]:
        z = jax.nn.relu(z)
        return (z * inverse_sqrt(jnp.sum(jnp.square(z), axis=-1, keepdims=True))).astype(dtype)

    difference = matmul(jnp.abs(pairs(rows.x, -columns.x)).astype(dtype), unit.difference[...])
    joint = matmul(branch(difference + unit.difference_bias[...]), unit.joint[0])
    joint += matmul(branch(pairs(rows.mean, columns.mean)), unit.joint[1])
    joint = jax.nn.relu(joint + unit.joint_bias[...]).astype(dtype).astype(jnp.float32)
    scores = (joint * unit.score[...]).reshape(len(rows.x), len(columns.x), -1)
    return jnp.sum(scores, axis=-1) + unit.score_bias[...]
