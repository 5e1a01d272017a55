"""How bad input is refused: one ValueError that names the argument."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pddm_jax.types import AnyArray


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError that names the argument and lists what exists."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}, got {value!r}")


def as_reals(name: str, value: AnyArray) -> Float[Array, "*s"]:
    """An array of real numbers of any type, as float32; a ValueError where it is none."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name} must be an array of real numbers, got {dtype or type(value).__name__}")
    return jnp.asarray(value, jnp.float32)


def as_matrix(name: str, value: AnyArray, columns: int | None = None) -> Float[Array, "n d"]:
    """A matrix of real numbers, of a given width or any, as float32; a ValueError where it is none."""
    matrix = as_reals(name, value)
    if matrix.ndim != 2 or columns not in (None, matrix.shape[1]):
        width = "d" if columns is None else columns
        raise ValueError(f"{name} must be a matrix [n, {width}], got shape {matrix.shape}")
    return matrix


def as_finite_matrix(name: str, value: AnyArray, columns: int | None = None) -> Float[Array, "n d"]:
    """As `as_matrix`, not under jit; a ValueError, too, where a number is infinite or nan."""
    matrix = as_matrix(name, value, columns)
    rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(rows):
        raise ValueError(f"{name} must be finite, but {len(rows)} rows are not: the first is {rows[0]}")
    return matrix


def as_rows(name: str, value: AnyArray, columns: int | None = None) -> Float[AnyArray, "n d"]:
    """As `as_finite_matrix`, but 64-bit numbers from the host are kept as float64."""
    with np.errstate(over="ignore", under="ignore"):
        matrix: AnyArray = as_matrix(name, value, columns)
    if isinstance(value, np.ndarray):
        wide = value.dtype.itemsize > 2 and value.dtype != np.float32
        matrix = value.astype(np.float64) if wide else np.asarray(matrix)
    if matrix.size and not np.isfinite([float(matrix.min()), float(matrix.max())]).all():
        bad = np.flatnonzero(~np.isfinite(np.asarray(matrix)).all(axis=1))
        raise ValueError(f"{name} must be finite, but {len(bad)} rows are not: the first is {bad[0]}")
    return matrix


def as_labels(name: str, labels: object, length: int) -> Int[AnyArray, " n"]:
    """Class labels, any integers, as int32 codes 0, 1, ... that are equal where the labels are.

    JAX would cut wide integers down to 32 bits, and 1 and 2**32 + 1 would become one class; so what
    comes from the host is numbered there. What is on the device already is taken as it is.

    Raises:
        ValueError: the labels are not `length` integers.
    """
    if not isinstance(labels, jax.Array):
        given = np.asarray(labels)
        if given.dtype.kind not in "iu":  # integers of mixed or great width, if they are integers
            given = np.asarray(labels, dtype=object)
            if not all(isinstance(label, int | np.integer) for label in given.flat):
                raise ValueError(f"{name} must be integers, got {np.asarray(labels).dtype}")
        labels = np.unique(given, return_inverse=True)[1].reshape(given.shape).astype(np.int32)
    if labels.shape != (length,):
        raise ValueError(f"{name} must have shape [{length}], got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    return labels
