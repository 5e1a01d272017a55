"""PDDM scores of tiles of pairs on a Hopper GPU, in bfloat16: one Pallas kernel, compiled by Mosaic.

A program takes rows of one tile of the pair matrix, 64 rows by 64 columns: all rows where there are many
tiles, fewer otherwise, so that the whole GPU is busy. Three warpgroups run it:

1. Two compute. In each turn each of them takes a row of the tile and computes the scores of its 64 pairs:

   - z = relu(|x_i - x_j| W + b), the branch of the difference, CHUNK features at a time. It is stored in
     shared memory without normalization. Normalization commutes with the joint layer,
     (z / |z|) W = (z W) / |z|, so z is read only once.
   - CHUNK features of the joint layer at a time: the contribution of the mean's branch, computed on the fly
     because its first layer is linear and known for each image; then the contribution of z. Each chunk
     adds one number per pair to the score.

2. One fetches the operands in the order of `gpu_schedule`: STEP features of the images, and as many rows of
   a matrix, through two rings of slots in shared memory. So matrices of any size stream through, and only
   the score of a pair leaves the chip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as mosaic
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pddm_jax.numerics import inverse_sqrt
from pddm_jax.pddm.kernels.gpu_schedule import (
    CHUNK,
    DEPTHS,
    DIFFERENCE,
    MEAN_JOINT,
    STEP,
    Z_JOINT,
    Product,
    Schedule,
    make_schedule,
)
from pddm_jax.pddm.kernels.weights import unit_weights, widened
from pddm_jax.pddm.tiles import TileIndex, Tiles, UnitWidths
from pddm_jax.types import Params

TILE = 64
"""Images along one side of a tile: a warpgroup multiplies the 64 pairs of a row at once."""

TILES_PER_STEP = 2048
"""Tiles that are scored at once: 32 MiB of scores."""

PROGRAMS = 1024
"""The least number of programs, if tiles divide that far: several for each processor of the GPU."""

COMPUTING = 2
"""Warpgroups that compute."""

REGISTERS = {"compute": 232, "fetch": 40}
"""Registers of a thread; together nearly all 65,536 that there are."""


def supports(dtype: DTypeLike, widths: UnitWidths) -> bool:
    """Whether the kernel was compiled for this type and these widths; embeddings may have any width."""
    return jnp.dtype(dtype) == jnp.bfloat16 and max(widths.hidden, widths.joint) <= 512


def score_tiles(
    params: Params, tiles: Tiles, index: TileIndex, interpret: Any = None
) -> Float[Array, "g t t"]:
    """Scores of row tile r against column tile c, for a group of tiles."""
    unit = unit_weights(params, jnp.bfloat16, CHUNK)
    images = [widened(array, CHUNK).reshape(len(array) * TILE, -1) for array in tiles]
    matrices = unit.difference, *unit.joint
    vectors = [vector[0] for vector in (unit.difference_bias, unit.joint_bias, unit.score)]
    d, hidden = matrices[0].shape
    schedule, count = make_schedule(d, hidden, matrices[1].shape[1]), len(index.r)
    turns = TILE // COMPUTING
    while turns % 2 == 0 and count * TILE < PROGRAMS * turns * COMPUTING:
        turns //= 2
    kernel = mosaic.kernel(
        partial(_kernel, schedule, turns),
        out_type=jax.ShapeDtypeStruct((count, TILE, TILE), jnp.float32),
        scratch_types=_scratch(hidden),
        grid=(count, TILE // COMPUTING // turns),
        grid_names=("tile", "share"),
        num_threads=COMPUTING + 1,
        thread_name="warpgroup",
        compiler_params=mosaic.CompilerParams(
            lowering_semantics=mosaic.LoweringSemantics.Warpgroup, reduction_scratch_bytes=512
        ),
        interpret=interpret,
        kernel_name="pair_scores",
    )
    return kernel(*index, *images, *matrices, *vectors) + unit.score_bias


def _scratch(hidden: int) -> list[Any]:
    """Shared memory of a program: z, the left side of a product, and the fields of `Rings`."""

    def swizzled(*shape: int, dtype: DTypeLike) -> Any:
        tiling = mosaic.TilingTransform((8, 128 // jnp.dtype(dtype).itemsize))
        return mosaic.SMEM(shape, dtype, transforms=(tiling, mosaic.SwizzleTransform(128)))

    matrices, images = DEPTHS["matrices"], DEPTHS["images"]
    return [
        swizzled(COMPUTING, hidden // STEP, TILE, STEP, dtype=jnp.bfloat16),  # z
        swizzled(COMPUTING, TILE, STEP, dtype=jnp.bfloat16),  # a left side computed from images
        swizzled(matrices, STEP, CHUNK, dtype=jnp.bfloat16),
        swizzled(images, TILE, STEP, dtype=jnp.float32),
        mosaic.SMEM((images, COMPUTING, STEP), jnp.float32),
        mosaic.Barrier(num_barriers=matrices),
        mosaic.Barrier(num_arrivals=COMPUTING, num_barriers=matrices),
        mosaic.Barrier(num_arrivals=2, num_barriers=images),  # columns and rows
        mosaic.Barrier(num_arrivals=COMPUTING, num_barriers=images),
    ]


def read(vector: Any, features: Any) -> Float[Array, " n"]:
    """Some features of a vector in global memory: shared memory has no room for it."""
    return mosaic.load(vector, features, layout=mosaic.Layout.WGMMA.reduce(0), optimized=False)


class Rings(NamedTuple):
    """Rings of slots in shared memory for all warpgroups, and barriers: a slot is filled, or has been read.

    The life of a slot: the fetching warpgroup waits until it has been read, if it was used before, and
    starts a copy into it; the copy itself arrives at `filled`; each computing warpgroup waits for `filled`,
    multiplies, and arrives at `read`.
    """

    matrices: Any
    columns: Any  # of the tile
    rows: Any
    matrix_filled: Any
    matrix_read: Any
    images_filled: Any
    images_read: Any


def _kernel(schedule: Schedule, turns: int, *refs: Any) -> None:
    """The work of one warpgroup of a program, which takes `turns` turns of a tile."""
    r, c, x, mean, difference, z_joint, mean_joint, *vectors, scores = refs[:11]
    z, left = refs[11:13]
    rings = Rings(*refs[13:])
    warpgroup, tile = jax.lax.axis_index("warpgroup"), jax.lax.axis_index("tile")
    first = jax.lax.axis_index("share") * turns * COMPUTING

    @pl.when(warpgroup < COMPUTING)
    def compute() -> None:
        mosaic.set_max_registers(REGISTERS["compute"], action="increase")

        @pl.loop(0, turns)
        def take(turn: Array) -> None:
            own = z.at[warpgroup], left.at[warpgroup], rings.rows.at[:, warpgroup]
            score = _Row(schedule, turn, rings, *own).score(vectors)
            scores[tile, first + turn * COMPUTING + warpgroup] = score

    @pl.when(warpgroup == COMPUTING)
    def fetch() -> None:
        mosaic.set_max_registers(REGISTERS["fetch"], action="decrease")
        columns = pl.ds(c[tile] * TILE, TILE)
        sources = {DIFFERENCE: (x, difference), Z_JOINT: (None, z_joint), MEAN_JOINT: (mean, mean_joint)}

        @pl.loop(0, turns)
        def take(turn: Array) -> None:
            rows = pl.ds(r[tile] * TILE + first + turn * COMPUTING, COMPUTING)
            _Fetch(schedule, turn, rings, rows=rows, columns=columns, sources=sources).all()

        # The last reads are awaited too: the interpreter requires that every arrival is observed.
        for barrier, ring in ((rings.matrix_read, "matrices"), (rings.images_read, "images")):
            for slot in range(DEPTHS[ring]):
                mosaic.barrier_wait(barrier.at[slot])


@dataclass(frozen=True)
class _Fetch:
    """The copies of one turn: all operands of its rows, by the fetching warpgroup."""

    schedule: Schedule
    turn: Array
    rings: Rings
    rows: Any  # slices of the images
    columns: Any
    sources: dict[int, tuple[Any, Any]]  # by matrix: the images of its left side, and the matrix

    def all(self) -> None:
        """In the order of the schedule."""
        for product in self.schedule.products():
            pl.loop(0, product.steps)(partial(self.step, product))

    def step(self, product: Product, k: Array) -> None:
        """The operands of step k of a product."""
        images, matrix = self.sources[product.matrix]
        rings, slot = self.rings, self.schedule.slots(self.turn, product, k)
        features = pl.ds(k * STEP, STEP)
        if product.images:
            pl.when(slot.images_used)(lambda: mosaic.barrier_wait(rings.images_read.at[slot.images]))
            filled = rings.images_filled.at[slot.images]
            mosaic.copy_gmem_to_smem(
                images.at[self.columns, features], rings.columns.at[slot.images], filled
            )
            mosaic.copy_gmem_to_smem(images.at[self.rows, features], rings.rows.at[slot.images], filled)
        pl.when(slot.matrix_used)(lambda: mosaic.barrier_wait(rings.matrix_read.at[slot.matrix]))
        block = matrix.at[features, pl.ds(product.chunk * CHUNK, CHUNK)]
        filled = rings.matrix_filled.at[slot.matrix]
        mosaic.copy_gmem_to_smem(block, rings.matrices.at[slot.matrix], filled)


@dataclass(frozen=True)
class _Row:
    """The 64 pairs of one row of a tile, in one turn of a computing warpgroup."""

    schedule: Schedule
    turn: Array
    rings: Rings
    z: Any
    left: Any
    own_rows: Any  # of the ring of rows, those of this warpgroup

    def score(self, vectors: Sequence[Any]) -> Float[Array, " t"]:
        """The scores of the pairs, without the bias."""
        difference_bias, joint_bias, weight = vectors
        squared = score = zeros = jnp.zeros(TILE, jnp.float32)
        for product in self.schedule.difference:
            sums, _ = self.multiply(product, zeros)
            new = jnp.maximum(sums + _over_pairs(difference_bias, product), 0)
            squared += jnp.sum(new * new, axis=1)
            for k in range(CHUNK // STEP):
                part = new[:, k * STEP : (k + 1) * STEP]
                self.z[product.chunk * (CHUNK // STEP) + k] = part.astype(self.z.dtype)
            mosaic.commit_smem()
        for of_mean, of_z in self.schedule.joint:
            sums, squared_mean = self.multiply(of_mean, zeros)
            joint = sums * _over_features(inverse_sqrt(squared_mean))
            sums, _ = self.multiply(of_z, zeros)
            joint += sums * _over_features(inverse_sqrt(squared)) + _over_pairs(joint_bias, of_z)
            score += jnp.sum(jnp.maximum(joint, 0) * _over_pairs(weight, of_z), axis=1)
        return score

    def multiply(
        self, product: Product, zeros: Float[Array, " t"]
    ) -> tuple[Float[Array, "t n"], Float[Array, " t"]]:
        """The product; and the sums of squares of the mean's branch, which is computed for it."""

        def accumulate(sums: Any) -> tuple[Array, Array]:
            step = partial(self.step, product, sums)
            squared = jax.lax.fori_loop(0, product.steps, step, zeros)
            self.finish_step(product, product.steps - 1)
            return sums[...], squared

        return pl.run_scoped(accumulate, mosaic.WGMMAAccumulatorRef((TILE, CHUNK)))

    def step(self, product: Product, sums: Any, k: Array, squared: Array) -> Array:
        """Start step k of a product; the sums of squares so far."""
        rings, slot = self.rings, self.schedule.slots(self.turn, product, k)
        if product.images:
            mosaic.barrier_wait(rings.images_filled.at[slot.images])
            new = self.left_side(product, slot.images)
            if product.matrix == MEAN_JOINT:
                squared += jnp.sum(new * new, axis=1)
        # Meanwhile the step before was multiplied.
        pl.when(k > 0)(lambda: self.finish_step(product, k - 1))
        if product.images:
            self.left[...] = new.astype(self.left.dtype)
            mosaic.commit_smem()  # so that the product sees it
            mosaic.barrier_arrive(rings.images_read.at[slot.images])
        mosaic.barrier_wait(rings.matrix_filled.at[slot.matrix])
        left = self.left if product.images else self.z.at[k]
        mosaic.wgmma(sums, left, rings.matrices.at[slot.matrix])
        return squared

    def finish_step(self, product: Product, k: Array | int) -> None:
        """Wait for step k of a product, and release its matrix."""
        mosaic.wgmma_wait(0)
        slot = self.schedule.slots(self.turn, product, k)
        mosaic.barrier_arrive(self.rings.matrix_read.at[slot.matrix])

    def left_side(self, product: Product, slot: Array) -> Float[Array, "t s"]:
        """A left side computed from images, in float32."""
        columns = self.rings.columns[slot]
        row = jax.lax.broadcast_in_dim(self.own_rows[slot], columns.shape, [1])
        if product.matrix == MEAN_JOINT:
            return jnp.maximum(row + columns, 0)
        return jnp.abs(row - columns)


def _over_pairs(vector: Any, product: Product) -> Float[Array, "t n"]:
    features = read(vector, pl.ds(product.chunk * CHUNK, CHUNK))
    return jax.lax.broadcast_in_dim(features, (TILE, CHUNK), [1])


def _over_features(scale: Float[Array, " t"]) -> Float[Array, "t n"]:
    return jax.lax.broadcast_in_dim(scale, (TILE, CHUNK), [0])
