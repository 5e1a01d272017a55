"""The words that every layer shares: index quadruplets, labels, and how bad input is refused."""

from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

AnyArray = jax.Array | np.ndarray
"""What public functions take: arrays of the device or of the host."""

Params = dict[str, dict[str, Array]]
"""Parameters of a PDDM unit: `{layer: {"kernel": [in, out], "bias": [out]}}`."""


class Quadruplets(NamedTuple):
    """Mined indices into a batch: (i, j) a positive pair, k a negative of i, l a negative of j.

    The shape is static; a slot that holds no quadruplet has `valid` False and any index in range.
    """

    i: Int[Array, " q"]
    j: Int[Array, " q"]
    k: Int[Array, " q"]
    l: Int[Array, " q"]  # noqa: E741 (the paper's letter)
    valid: Bool[Array, " q"]


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError that names the argument and lists what exists."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}, got {value!r}")


def check_matrix(name: str, value: AnyArray, columns: int | None = None) -> None:
    """Raise a ValueError that names the argument unless it is a matrix of real numbers."""
    shape = np.shape(value)
    if len(shape) != 2 or columns not in (None, shape[1]):
        width = "d" if columns is None else columns
        raise ValueError(f"{name} must be a matrix [n, {width}], got shape {shape}")
    dtype = jnp.result_type(value)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name} must hold real numbers, got {dtype}")


def as_labels(name: str, labels: object, length: int) -> Int[AnyArray, " n"]:
    """Class labels, any integers, as codes that are equal where the labels are.

    JAX would cut wide integers down to 32 bits, and 1 and 2**32 + 1 would become one class; so what
    comes from the host is numbered there. What is on the device already is taken as it is.

    Raises:
        ValueError: the labels are not `length` integers.
    """
    if not isinstance(labels, jax.Array):
        labels = np.asarray(labels)
        if labels.dtype == object and all(isinstance(label, int) for label in labels.flat):
            labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    if labels.shape != (length,):
        raise ValueError(f"{name} must have shape [{length}], got {labels.shape}")
    if length and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    if isinstance(labels, jax.Array):
        return labels
    return np.unique(labels, return_inverse=True)[1].astype(np.int32)
