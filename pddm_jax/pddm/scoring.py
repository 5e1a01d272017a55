"""PDDM scores of all pairs, as a matrix."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_matrix
from pddm_jax.pddm.tiles import (
    TILE,
    TileIndex,
    cut_tiles,
    scan,
    score_tiles,
    steps_of_tiles,
    symmetric,
    tiles_per_step,
)
from pddm_jax.pddm.unit import as_unit, check_dtype, check_unit, pair_scores
from pddm_jax.types import AnyArray, Params


def score_rows(
    params: Params,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "n m"]:
    """`score_matrix` for few rows x, such as one query and its candidates: pair by pair, without tiles.

    `score_matrix` pads x to 8 rows, 8 times the work for a single row; re-ranking (`evaluate.rerank`)
    scores each query alone. The scores are those of `pair_scores`, and differ from those
    of `score_matrix` by rounding. Memory is O(n m (d + hidden + joint)).

    Args:
        params: parameters of a PDDM unit.
        x: [n, d] embeddings, of any type.
        y: [m, d] embeddings.
        dtype: type of the matrix products, float32 or bfloat16.

    Returns:
        [n, m] float32 scores.

    Raises:
        ValueError: x or y is not a matrix or does not fit params, or dtype is not one of the two.
    """
    d = check_unit(params)
    rows, columns = as_matrix("x", x, d)[:, None], as_matrix("y", y, d)[None]
    shape = rows.shape[0], columns.shape[1], d
    return pair_scores(params, jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape), dtype=dtype)


def _place(
    blocks: Float[Array, "n m t t"], r: np.ndarray, c: np.ndarray, tiles: Float[Array, "g t t"]
) -> Float[Array, "n m t t"]:
    # Without these promises the gradient determines, in twice the memory, which tile wrote each block last.
    return blocks.at[r, c].set(tiles, unique_indices=True, mode="promise_in_bounds")


def score_matrix(
    params: Params,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"] | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "n m"]:
    """PDDM scores S(x_i, y_j) of all pairs; higher = more similar. See `PDDM` for the formula.

    Jit-compiled. Differentiable; the backward pass recomputes each tile instead of keeping [n, m, d].
    A score is NaN where its pair or a parameter is not finite, or where it overflows.

    Args:
        params: parameters of a PDDM unit.
        x: [n, d] embeddings, of any type.
        y: [m, d] embeddings; None scores x against itself, at half the work, and the result is
            then symmetric to the bit.
        dtype: type of the matrix products, float32 or bfloat16.

    Returns:
        [n, m] float32 scores ([n, n] where y is None).

    Raises:
        ValueError: x or y is not a matrix or does not fit params, or dtype is not one of the two.
    """
    dtype, d = check_dtype(dtype), check_unit(params)
    x = as_matrix("x", x, d)
    y = None if y is None else as_matrix("y", y, d)
    return _score_matrix(as_unit(params), x, y, dtype)


@partial(jax.jit, static_argnums=3)
def _score_matrix(params: Params, x: Array, y: Array | None, dtype: str) -> Float[Array, "n m"]:
    n, m = len(x), len(x if y is None else y)
    if not n * m:
        return jnp.zeros((n, m), jnp.float32)
    rows = cut_tiles(params, x, dtype)
    columns = rows if y is None else cut_tiles(params, y, dtype)
    shape = len(rows.x), len(columns.x)
    r, c = np.triu_indices(shape[0]) if y is None else np.indices(shape).reshape(2, -1)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(rc: Int[Array, "2 g"]) -> Float[Array, "g t t"]:
        index = TileIndex(rc[0], rc[1])
        scores = score_tiles(params, rows, columns, index, dtype=dtype)
        return symmetric(scores, index) if y is None else scores

    steps = steps_of_tiles(r, c, tiles_per_step(params, x, len(r)))
    tiles = scan(lambda _, rc: (None, step(rc)), None, steps)[1]
    tiles = tiles.reshape(-1, TILE, TILE)[: len(r)]
    blocks = _place(jnp.zeros((*shape, TILE, TILE), tiles.dtype), r, c, tiles)
    if y is None:
        blocks = _place(blocks, c, r, tiles.swapaxes(1, 2))
    return blocks.swapaxes(1, 2).reshape(shape[0] * TILE, -1)[:n, :m]
