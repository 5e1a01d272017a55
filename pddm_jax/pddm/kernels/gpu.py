"""The scores of tiles of pairs on a Hopper GPU, in bfloat16: one Pallas kernel, which Mosaic compiles.

A program takes rows of one tile of the pair matrix, 64 rows by 64 columns: all of them where there
are many tiles, fewer where there are not, so that the whole card is busy. Three warpgroups run it:

1. Two compute. In a turn each takes a row of the tile, and that row's 64 pairs through the unit:

   - z = relu(|x_i - x_j| W + b), the branch of the difference, CHUNK features at a time. It goes to shared
     memory as it is: that normalising commutes with the joint layer, (z / |z|) W = (z W) / |z|, spares a
     second look at it.
   - CHUNK features of the joint layer at a time: what the mean's branch adds, made as it is needed, since
     its first layer is linear and known for each image; then what z adds. Their part of the score is a
     number a pair.

2. One fetches what these read, in the order in which they read it: STEP features of the images, and as many
   rows of a matrix, through two rings of slots in shared memory. So matrices of any size pass by, and of
   a pair nothing but its score leaves the chip.

What both sides must agree on, which product follows which, is a list of `Pass`.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as mosaic
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.numerics import inverse_sqrt
from pddm_jax.pddm.kernels.weights import weights, widened
from pddm_jax.types import Params

TILE = 64
"""Images along one side of a tile: the rows that a warpgroup multiplies at once are a row's pairs."""

TOGETHER = 2048
"""Tiles that are scored at once: 32 MiB of scores."""

PROGRAMS = 1024
"""Programs that there are at least, if tiles divide so far: several for each of a card's processors."""

STEP = 64
"""Features that are multiplied at a time."""

CHUNK = 128
"""Features that a product makes: two products of 64 x 128 are what the registers hold."""

COMPUTE = 2
"""Warpgroups that compute."""

DEPTHS = {"matrices": 3, "images": 2}
"""Slots of the rings. With the widest branch that `takes` lets in they fill shared memory, 227 KiB."""

REGISTERS = {"compute": 232, "fetch": 40}
"""Registers of a thread, which together are nearly all 65,536 that there are."""


DIFFERENCE, OF_Z, OF_MEAN = range(3)
"""The matrices: of the difference, and of the joint layer what meets z and what meets the mean's branch."""


def takes(dtype: DTypeLike, d: int, hidden: int, joint: int) -> bool:
    """Whether the kernel was compiled for this type and these widths; d may be any."""
    del d
    return jnp.dtype(dtype) == jnp.bfloat16 and max(hidden, joint) <= 512


class Pass(NamedTuple):
    """A product of a row's pairs with CHUNK columns of a matrix, STEP features of them at a time."""

    matrix: int
    chunk: int  # of the matrix's columns
    steps: int
    images: bool  # whether the left side is made of images; else it is z
    matrices_before: int  # steps of the passes before it, which have gone through the ring of matrices
    images_before: int  # and those of them that have gone through the ring of images


def passes(d: int, hidden: int, joint: int) -> Iterator[Pass]:
    """What a row takes, in order: a chunk of the joint layer begins with the mean's branch."""
    of_matrices = of_images = 0
    order = [(DIFFERENCE, n) for n in range(hidden // CHUNK)]
    order += [(matrix, n) for n in range(joint // CHUNK) for matrix in (OF_MEAN, OF_Z)]
    for matrix, n in order:
        steps, images = (d if matrix == DIFFERENCE else hidden) // STEP, matrix != OF_Z
        yield Pass(matrix, n, steps, images, of_matrices, of_images)
        of_matrices += steps
        of_images += steps * images


def score_tiles(
    params: Params,
    x: Float[Array, "n t d"],
    mean: Float[Array, "n t h"],
    r: Int[Array, " g"],
    c: Int[Array, " g"],
    interpret: Any = None,
) -> Float[Array, "g t t"]:
    """Scores of row tile r against column tile c, for a group of tiles."""
    unit = weights(params, jnp.bfloat16, CHUNK)
    images = [widened(array, CHUNK).reshape(len(x) * TILE, -1) for array in (x, mean)]
    matrices = unit.difference, *unit.joint
    vectors = [vector[0] for vector in (unit.difference_bias, unit.joint_bias, unit.score)]
    d, hidden = matrices[0].shape
    plan = tuple(passes(d, hidden, matrices[1].shape[1]))

    def swizzled(*shape: int, dtype: DTypeLike) -> Any:
        tiling = mosaic.TilingTransform((8, 128 // jnp.dtype(dtype).itemsize))
        return mosaic.SMEM(shape, dtype, transforms=(tiling, mosaic.SwizzleTransform(128)))

    of_matrices, of_images = DEPTHS["matrices"], DEPTHS["images"]
    turns = TILE // COMPUTE
    while turns % 2 == 0 and len(r) * TILE < PROGRAMS * turns * COMPUTE:
        turns //= 2
    scores = mosaic.kernel(
        partial(_kernel, plan, turns),
        out_type=jax.ShapeDtypeStruct((len(r), TILE, TILE), jnp.float32),
        scratch_types=[
            swizzled(COMPUTE, hidden // STEP, TILE, STEP, dtype=jnp.bfloat16),  # z
            swizzled(COMPUTE, TILE, STEP, dtype=jnp.bfloat16),  # a left side made of images
            swizzled(of_matrices, STEP, CHUNK, dtype=jnp.bfloat16),
            swizzled(of_images, TILE, STEP, dtype=jnp.float32),  # columns of the tile
            mosaic.SMEM((of_images, COMPUTE, STEP), jnp.float32),  # its rows
            mosaic.Barrier(num_barriers=of_matrices),  # a matrix has come
            mosaic.Barrier(num_arrivals=COMPUTE, num_barriers=of_matrices),  # it has been read
            mosaic.Barrier(num_arrivals=2, num_barriers=of_images),  # columns and rows have come
            mosaic.Barrier(num_arrivals=COMPUTE, num_barriers=of_images),  # they have been read
        ],
        grid=(len(r), TILE // COMPUTE // turns),
        grid_names=("tile", "share"),
        num_threads=COMPUTE + 1,
        thread_name="warpgroup",
        compiler_params=mosaic.CompilerParams(
            lowering_semantics=mosaic.LoweringSemantics.Warpgroup, reduction_scratch_bytes=512
        ),
        interpret=interpret,
        kernel_name="pair_scores",
    )(r, c, *images, *matrices, *vectors)
    return scores + unit.score_bias


def read(vector: Any, features: Any) -> Float[Array, " n"]:
    """Some of a vector, for which shared memory has no room."""
    return mosaic.load(vector, features, layout=mosaic.Layout.WGMMA.reduce(0), optimized=False)


class Rings(NamedTuple):
    """What lies in shared memory for all warpgroups; barriers that say that it has come, or been read.

    A slot goes round like this: the fetching warpgroup waits until it was read, if it was used before, and
    starts a copy into it; the copy itself arrives at `here`; each computing warpgroup waits for `here`,
    multiplies, and arrives at `read`.
    """

    matrices: Any
    columns: Any
    rows: Any
    matrix_here: Any
    matrix_read: Any
    images_here: Any
    images_read: Any


class Places(NamedTuple):
    """A step's slots in the rings, and whether something was there before."""

    matrix: Array
    matrix_used: Array
    images: Array
    images_used: Array


def places(plan: tuple[Pass, ...], turn: Array, of: Pass, k: Array | int) -> Places:
    """The slots of step k of a pass, in a turn of the program."""
    last = plan[-1]
    matrix = turn * (last.matrices_before + last.steps) + of.matrices_before + k
    images = turn * (last.images_before + last.steps * last.images) + of.images_before + k
    of_matrices, of_images = DEPTHS["matrices"], DEPTHS["images"]
    return Places(
        jax.lax.rem(matrix, of_matrices),
        matrix >= of_matrices,
        jax.lax.rem(images, of_images),
        images >= of_images,
    )


def _kernel(plan: tuple[Pass, ...], turns: int, *refs: Any) -> None:
    """What one warpgroup of a program does, which is for so many turns of a tile."""
    r, c, x, mean, difference, of_z, of_mean, *vectors, scores = refs[:11]
    z, left = refs[11:13]
    rings = Rings(*refs[13:])
    warpgroup, tile = jax.lax.axis_index("warpgroup"), jax.lax.axis_index("tile")
    first = jax.lax.axis_index("share") * turns * COMPUTE

    @pl.when(warpgroup < COMPUTE)
    def compute() -> None:
        mosaic.set_max_registers(REGISTERS["compute"], action="increase")

        @pl.loop(0, turns)
        def take(turn: Array) -> None:
            mine = z.at[warpgroup], left.at[warpgroup], rings.rows.at[:, warpgroup]
            score = _score(plan, turn, vectors, *mine, rings)
            scores[tile, first + turn * COMPUTE + warpgroup] = score

    @pl.when(warpgroup == COMPUTE)
    def fetch() -> None:
        mosaic.set_max_registers(REGISTERS["fetch"], action="decrease")
        sources = {DIFFERENCE: (x, difference), OF_Z: (None, of_z), OF_MEAN: (mean, of_mean)}
        columns = pl.ds(c[tile] * TILE, TILE)

        @pl.loop(0, turns)
        def take(turn: Array) -> None:
            rows = pl.ds(r[tile] * TILE + first + turn * COMPUTE, COMPUTE)
            _fetch(plan, turn, rows, columns, sources, rings)

        # The last reads are waited for too: the interpreter asks that each arrival at a barrier is seen.
        for freed, ring in ((rings.matrix_read, "matrices"), (rings.images_read, "images")):
            for slot in range(DEPTHS[ring]):
                mosaic.barrier_wait(freed.at[slot])


def _fetch(
    plan: tuple[Pass, ...],
    turn: Array,
    rows: Any,
    columns: Any,
    sources: dict[int, tuple[Any, Any]],
    rings: Rings,
) -> None:
    """Everything that the rows of a turn take."""

    def fetch(of: Pass, k: Array) -> None:
        images, matrix = sources[of.matrix]
        at, features = places(plan, turn, of, k), pl.ds(k * STEP, STEP)
        if of.images:
            pl.when(at.images_used)(lambda: mosaic.barrier_wait(rings.images_read.at[at.images]))
            here = rings.images_here.at[at.images]
            mosaic.copy_gmem_to_smem(images.at[columns, features], rings.columns.at[at.images], here)
            mosaic.copy_gmem_to_smem(images.at[rows, features], rings.rows.at[at.images], here)
        pl.when(at.matrix_used)(lambda: mosaic.barrier_wait(rings.matrix_read.at[at.matrix]))
        block = matrix.at[features, pl.ds(of.chunk * CHUNK, CHUNK)]
        mosaic.copy_gmem_to_smem(block, rings.matrices.at[at.matrix], rings.matrix_here.at[at.matrix])

    for of in plan:
        pl.loop(0, of.steps)(partial(fetch, of))


def _score(
    plan: tuple[Pass, ...],
    turn: Array,
    vectors: Sequence[Any],
    z: Any,
    left: Any,
    own_rows: Any,
    rings: Rings,
) -> Float[Array, " t"]:
    """The scores of a row's pairs, but for the bias."""
    difference_bias, joint_bias, weight = vectors
    none = jnp.zeros(TILE, jnp.float32)

    def made(of: Pass, slot: Array) -> Float[Array, "t s"]:
        """A left side made of images, in float32."""
        columns = rings.columns[slot]
        row = jax.lax.broadcast_in_dim(own_rows[slot], columns.shape, [1])
        return jnp.maximum(row + columns, 0) if of.matrix == OF_MEAN else jnp.abs(row - columns)

    def product(of: Pass) -> tuple[Float[Array, "t n"], Float[Array, " t"]]:
        """The product; and of the mean's branch, which is made for it, the sums of squares."""

        def sum_up(sums: Any) -> tuple[Array, Array]:
            def step(k: Array, squared: Array) -> Array:
                at = places(plan, turn, of, k)
                if of.images:
                    mosaic.barrier_wait(rings.images_here.at[at.images])
                    new = made(of, at.images)
                    if of.matrix == OF_MEAN:
                        squared += jnp.sum(new * new, axis=1)
                # While this was made, the step before it was multiplied.
                pl.when(k > 0)(lambda: multiplied(k - 1))
                if of.images:
                    left[...] = new.astype(left.dtype)
                    mosaic.commit_smem()  # so that the product sees it
                    mosaic.barrier_arrive(rings.images_read.at[at.images])
                mosaic.barrier_wait(rings.matrix_here.at[at.matrix])
                mosaic.wgmma(sums, left if of.images else z.at[k], rings.matrices.at[at.matrix])
                return squared

            def multiplied(k: Array | int) -> None:
                mosaic.wgmma_wait(0)
                mosaic.barrier_arrive(rings.matrix_read.at[places(plan, turn, of, k).matrix])

            squared = jax.lax.fori_loop(0, of.steps, step, none)
            multiplied(of.steps - 1)
            return sums[...], squared

        return pl.run_scoped(sum_up, mosaic.WGMMAAccumulatorRef((TILE, CHUNK)))

    def over_pairs(vector: Any, of: Pass) -> Float[Array, "t n"]:
        features = read(vector, pl.ds(of.chunk * CHUNK, CHUNK))
        return jax.lax.broadcast_in_dim(features, (TILE, CHUNK), [1])

    def over_features(scale: Float[Array, " t"]) -> Float[Array, "t n"]:
        return jax.lax.broadcast_in_dim(scale, (TILE, CHUNK), [0])

    squared = score = none
    for of in plan:
        sums, squared_mean = product(of)
        if of.matrix == DIFFERENCE:
            new = jnp.maximum(sums + over_pairs(difference_bias, of), 0)
            squared += jnp.sum(new * new, axis=1)
            for k in range(CHUNK // STEP):
                z[of.chunk * (CHUNK // STEP) + k] = new[:, k * STEP : (k + 1) * STEP].astype(z.dtype)
            mosaic.commit_smem()
        elif of.matrix == OF_MEAN:
            joint = sums * over_features(inverse_sqrt(squared_mean))
        else:
            joint += sums * over_features(inverse_sqrt(squared)) + over_pairs(joint_bias, of)
            score += jnp.sum(jnp.maximum(joint, 0) * over_pairs(weight, of), axis=1)
    return score
