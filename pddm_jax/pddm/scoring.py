"""PDDM scores of given pairs, and of all pairs as a matrix."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_matrix, as_reals, check_choice
from pddm_jax.numerics import all_finite
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
from pddm_jax.pddm.unit import PDDM
from pddm_jax.types import DTYPES, AnyArray, Params

LAYERS = ("difference", "joint", "mean", "score")
LEAVES = ("kernel", "bias")


def check_dtype(dtype: object) -> str:
    """The name of a type of matrix products; ValueError unless it is float32 or bfloat16."""
    try:
        name = dtype if isinstance(dtype, str) else str(jnp.dtype(dtype).name)  # type: ignore[call-overload]
    except TypeError:
        name = repr(dtype)
    check_choice("dtype", name, DTYPES)
    return name


def as_unit(params: Params) -> Params:
    """Parameters of a unit, in float32; ValueError if they are not those of a unit."""
    check_unit(params)
    return {
        layer: {name: as_reals(f"params[{layer!r}][{name!r}]", params[layer][name]) for name in LEAVES}
        for layer in LAYERS
    }


def check_unit(params: Params) -> int:
    """The width of the embeddings that a unit scores; ValueError if `params` are not those of a unit."""
    try:
        shapes = {layer: params[layer]["kernel"].shape for layer in LAYERS}
        widths = {layer: params[layer]["bias"].shape for layer in LAYERS}
        (d, h), (joint_in, joint) = shapes["difference"], shapes["joint"]
        fits = shapes["mean"] == (d, h) and joint_in == 2 * h and shapes["score"] == (joint, 1)
        fits &= all(widths[layer] == shapes[layer][1:] for layer in LAYERS)
    except (AttributeError, LookupError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"params must hold the layers {list(LAYERS)} of a PDDM unit")
    return d


def pair_scores(
    params: Params,
    x: Float[AnyArray, "*s d"],
    y: Float[AnyArray, "*s d"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*s"]:
    """PDDM scores S(x, y) of given pairs; higher = more similar. See `PDDM` for formula and source.

    Jit-compiled. A score is NaN where its pair or a parameter is not finite, or where it overflows.

    Args:
        params: parameters of a PDDM unit.
        x: [..., d] embeddings, of any type.
        y: [..., d] embeddings, of the shape of x.
        dtype: type of the matrix products, float32 or bfloat16.

    Returns:
        [...] float32 scores.

    Raises:
        ValueError: x does not fit params, y does not fit x, or dtype is not one of the two.
    """
    dtype, d = check_dtype(dtype), check_unit(params)
    x, y = as_reals("x", x), as_reals("y", y)
    if x.shape[-1:] != (d,):
        raise ValueError(f"x must have {d} features, as params has, got shape {x.shape}")
    if x.shape != y.shape:
        raise ValueError(f"y must have the shape of x, {x.shape}, got {y.shape}")
    return _pair_scores(as_unit(params), x, y, dtype)


@partial(jax.jit, static_argnums=3)
def _pair_scores(params: Params, x: Array, y: Array, dtype: str) -> Float[Array, "*s"]:
    unit = PDDM(params["mean"]["kernel"].shape[-1], params["joint"]["kernel"].shape[-1], jnp.dtype(dtype))
    scores: Array = unit.apply({"params": params}, x, y)  # type: ignore[assignment]
    return scores + jnp.where(all_finite(params), 0, jnp.nan).astype(jnp.float32)


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
