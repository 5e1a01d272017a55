"""The PDDM unit's parameters as kernels read them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pddm_jax.types import Params


class Weights(NamedTuple):
    """The layers that a pair takes, matrices in the type of the products, all else in float32."""

    difference: Float[Array, "d h"]
    difference_bias: Float[Array, "1 h"]
    joint: Float[Array, "2 h c"]  # what meets the branch of the difference, and what meets the mean's
    joint_bias: Float[Array, "1 c"]
    score: Float[Array, "1 c"]
    score_bias: Float[Array, "1 1"]


def widened(array: Float[Array, "*s d"], to: int) -> Float[Array, "*s e"]:
    """Zeros after the last axis, up to a multiple of `to`; no sum of products changes by them."""
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % to)])


def weights(params: Params, dtype: DTypeLike, to: int) -> Weights:
    """Parameters of a unit, its widths brought to multiples of `to`."""

    def wide(matrix: Float[Array, "*s m n"]) -> Float[Array, "*s k l"]:
        return widened(widened(matrix, to).swapaxes(-1, -2), to).swapaxes(-1, -2).astype(dtype)

    difference, joint, score = (params[layer] for layer in ("difference", "joint", "score"))
    hidden = difference["kernel"].shape[1]
    return Weights(
        wide(difference["kernel"]),
        widened(difference["bias"][None], to),
        wide(joint["kernel"].reshape(2, hidden, -1)),
        widened(joint["bias"][None], to),
        widened(score["kernel"].T, to).astype(dtype).astype(jnp.float32),
        score["bias"][None],
    )


def matmul(x: Float[Array, "n d"], w: Float[Array, "d h"]) -> Float[Array, "n h"]:
    """The product x w in the type of both, summed in float32."""
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.matmul(x, w, precision=exact, preferred_element_type=jnp.float32)
