"""Argument checks: each raises one ValueError that names the argument."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pddm_jax.types import AnyArray

NARROW = {
    np.dtype(x) for x in (np.float16, jnp.bfloat16, np.float32, np.int8, np.uint8, np.int16, np.uint16)
}
"""Types whose numbers fit in float32."""


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise a ValueError that names the argument and lists what exists."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {sorted(choices)}, got {value!r}")


def as_count(name: str, value: object, least: int = 0) -> int:
    """An integer of `least` or more, below 2**31; a ValueError where it is none (a bool is none)."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if not least <= value < 2**31:
        bound = f"{least} or more" if value < least else "below 2**31"
        raise ValueError(f"{name} must be {bound}, got {value}")
    return int(value)


def as_scalar(name: str, value: object) -> Float[Array, ""]:
    """A real number of any type as float32; a ValueError where it is none (a bool is none)."""
    if isinstance(value, jax.Array) and value.shape == ():
        return as_reals(name, value)
    number = np.asarray(value)
    if number.shape or not (jnp.issubdtype(number.dtype, jnp.floating) or number.dtype.kind in "iu"):
        raise ValueError(f"{name} must be a number, got {_described(value)}")
    with np.errstate(over="ignore"):
        return jnp.asarray(number.astype(np.float32))


def as_scalars(**given: object) -> tuple[Float[Array, ""], ...]:
    """Real numbers by name, as `as_scalar` checks each."""
    return tuple(as_scalar(name, value) for name, value in given.items())


def _described(value: object) -> str:
    """A value in place of a number: an array by its type and shape, anything else by its repr."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return repr(value) if shape is None else f"an array of {dtype}, of shape {shape}"


def as_reals(name: str, value: AnyArray) -> Float[Array, "*s"]:
    """An array of real numbers of any type, as float32; a ValueError where it is none."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"{name} must be an array of real numbers, got {dtype or type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} must be an array without a mask: use {name}.filled(), got a masked array")
    if isinstance(value, jax.Array):
        return value.astype(jnp.float32)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and treated as that
        return jnp.asarray(np.asarray(value).astype(np.float32))


def as_matrix(name: str, value: AnyArray, columns: int | None = None) -> Float[Array, "n d"]:
    """A matrix of real numbers, of a given width or any, as float32; a ValueError where it is none."""
    matrix = as_reals(name, value)
    _check_shape(name, matrix.shape, columns)
    return matrix


def _check_shape(name: str, shape: tuple[int, ...], columns: int | None) -> None:
    if len(shape) != 2 or columns not in (None, shape[1]):
        width = "d" if columns is None else columns
        raise ValueError(f"{name} must be a matrix [n, {width}], got shape {shape}")


def as_finite_matrix(name: str, value: AnyArray, columns: int | None = None) -> Float[Array, "n d"]:
    """As `as_matrix`, not under jit; a ValueError, too, where a number is infinite or nan."""
    matrix = as_matrix(name, value, columns)
    rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(rows):
        raise ValueError(f"{name} must be finite, but {len(rows)} rows are not: the first is {rows[0]}")
    return matrix


def as_rows(name: str, value: AnyArray, columns: int | None = None) -> Float[AnyArray, "n d"]:
    """As `as_finite_matrix`, but numbers of 32 bits or more that float32 does not hold come as float64."""
    narrow = getattr(value, "dtype", None) in NARROW or not isinstance(value, np.ndarray | jax.Array)
    if narrow and isinstance(value, jax.Array):
        matrix: AnyArray = as_matrix(name, value, columns)
    else:
        with np.errstate(over="ignore", under="ignore"):
            reals = as_reals(name, value[:1] if getattr(value, "ndim", 0) > 1 else value)  # checks the type
            _check_shape(name, getattr(value, "shape", reals.shape), columns)
        matrix = np.asarray(value, np.float32 if narrow else np.float64)
    if matrix.size and not np.isfinite([float(matrix.min()), float(matrix.max())]).all():
        bad = np.flatnonzero(~np.isfinite(np.asarray(matrix)).all(axis=1))
        raise ValueError(f"{name} must be finite, but {len(bad)} rows are not: the first is {bad[0]}")
    return matrix


def as_labels(name: str, labels: object, length: int) -> Int[AnyArray, " n"]:
    """Class labels, any integers, as int32 codes that are equal where the labels are.

    JAX would truncate wide integers to 32 bits, and 1 and 2**32 + 1 would become one class; so labels of
    the host are numbered there: 0, 1, ... Labels on the device are taken as they are, unless they are wider
    than 32 bits (under `jax_enable_x64`).

    Raises:
        ValueError: the labels are not `length` integers.
    """
    if not isinstance(labels, jax.Array):
        labels = _numbered(name, labels)
    if labels.shape != (length,):
        raise ValueError(f"{name} must have shape [{length}], got {labels.shape}")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {labels.dtype}")
    if labels.dtype.itemsize > 4:  # the number of smaller ones is equal where the labels are
        return jnp.searchsorted(jnp.sort(labels), labels).astype(jnp.int32)
    return labels.astype(jnp.int32)


def _numbered(name: str, labels: object) -> Int[np.ndarray, "*s"]:
    """Labels of the host as 0, 1, ..."""
    try:
        given = np.asarray(labels)
    except ValueError:  # rows of uneven length
        given = np.array("", object)
    if given.dtype.kind not in "iu":  # integers of mixed or great width, if they are integers
        dtype, given = given.dtype, np.asarray(labels, dtype=object)
        if not all(
            isinstance(label, int | np.integer) and not isinstance(label, bool) for label in given.flat
        ):
            raise ValueError(
                f"{name} must be integers, got {'text' if dtype.kind in 'SU' else dtype}: "
                f"number them, for example by np.unique({name}, return_inverse=True)[1]"
            )
    return np.unique(given, return_inverse=True)[1].reshape(given.shape).astype(np.int32)
