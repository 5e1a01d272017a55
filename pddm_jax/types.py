"""Types that every layer shares: arrays, parameters, quadruplets, batches."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

AnyArray = jax.Array | np.ndarray
"""Arrays of the device or of the host, as public functions take them."""

Scalar = float | jax.Array
"""A number, or one that jit has traced."""

Params = dict[str, dict[str, Array]]
"""Parameters of a PDDM unit: `{layer: {"kernel": [in, out], "bias": [out]}}`."""


DTYPES = ("float32", "bfloat16")
"""Names of the types of matrix products."""


class Quadruplets(NamedTuple):
    """Mined indices into a batch: (i, j) a positive pair, k a negative of i, l a negative of j.

    The shape is static; a slot that holds no quadruplet has `valid` False and any index in range. Indices
    are int32. If scores under jit are not finite, every slot is valid and holds 2**31 - 1 for each image: a
    loss over an index that is out of range is NaN.
    """

    i: Int[Array, " q"]
    j: Int[Array, " q"]
    k: Int[Array, " q"]
    l: Int[Array, " q"]  # noqa: E741 (the paper's letter)
    valid: Bool[Array, " q"]


class Batch(NamedTuple):
    """Labelled images: on the host one process's share of a batch, on the devices all of it."""

    images: UInt8[AnyArray, "b h w c"]
    labels: Int[AnyArray, " b"]


OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant")
"""Names of optimizers, and of schedules of their learning rate."""
