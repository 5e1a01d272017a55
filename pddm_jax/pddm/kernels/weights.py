"""The PDDM unit's parameters as kernels read them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pddm_jax.types import Params


class Weights(NamedTuple):
    """The layers of a unit: matrices in the type of the products, all else in float32."""

    difference: Float[Array, "d h"]
    difference_bias: Float[Array, "1 h"]
    joint: Float[Array, "2 h c"]  # rows for the branch of the difference, and for that of the mean
    joint_bias: Float[Array, "1 c"]
    score: Float[Array, "1 c"]
    score_bias: Float[Array, "1 1"]


def widened(array: Float[Array, "*s d"], to: int) -> Float[Array, "*s e"]:
    """The array, its last axis padded by zeros to a multiple of `to`; no sum of products changes."""
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % to)])


def unit_weights(params: Params, dtype: DTypeLike, to: int) -> Weights:
    """Parameters of a unit, its widths padded to multiples of `to`."""

    def wide(matrix: Float[Array, "*s m n"]) -> Float[Array, "*s k l"]:
        return widened(widened(matrix, to).swapaxes(-1, -2), to).swapaxes(-1, -2).astype(dtype)

    difference, joint, score = (params[layer] for layer in ("difference", "joint", "score"))
    hidden = difference["kernel"].shape[1]
    return Weights(
        wide(difference["kernel"]),
        widened(difference["bias"][None], to),
        wide(joint["kernel"].reshape(2, hidden, -1)),
        widened(joint["bias"][None], to),
        score=widened(score["kernel"].T, to).astype(dtype).astype(jnp.float32),
        score_bias=score["bias"][None],
    )


def matmul(x: Float[Array, "n d"], w: Float[Array, "d h"]) -> Float[Array, "n h"]:
    """The product x w in the type of both, summed in float32."""
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.matmul(x, w, precision=exact, preferred_element_type=jnp.float32)
