"""Ranges of floating-point numbers: where squares leave them, and where sums of products are exact."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pddm_jax.types import AnyArray


def largest_of(*arrays: AnyArray) -> float:
    """The largest absolute value; 0 of no numbers."""
    return max((max(float(x.max()), -float(x.min())) for x in arrays if x.size), default=0.0)


def in_range(queries: AnyArray, gallery: AnyArray) -> tuple[AnyArray, AnyArray, int]:
    """The embeddings divided by a power of two, so that no square leaves its type's range; its exponent.

    They become float64 if squares could leave the range of float32, or if numbers are subnormal: XLA treats
    those as 0 on a CPU.
    """
    arrays = [gallery] if queries is gallery else [queries, gallery]
    largest = largest_of(*arrays)
    if largest < 2.0**-30:  # or it is subnormal itself
        largest = largest_of(*map(np.asarray, arrays))
    exponent = int(np.frexp(largest)[1])
    exponent = exponent if abs(exponent) > 30 else 0
    if exponent or (jax.default_backend() == "cpu" and any(map(_has_subnormal, arrays))):
        arrays = [np.ldexp(np.asarray(x, np.float64), -exponent) for x in arrays]
    return arrays[0], arrays[-1], exponent


def _has_subnormal(x: AnyArray) -> bool:
    host = np.asarray(x)
    small = np.count_nonzero(np.abs(host) < np.finfo(host.dtype).tiny)
    return bool(small and small > host.size - np.count_nonzero(host))


def is_exact(dtype: DTypeLike, largest: float, *arrays: AnyArray) -> bool:
    """Whether sums of products of these coordinates, less the origin, are exact.

    They are exact where all coordinates are multiples of one power of two and `largest`, the largest after
    centering, is a small multiple of it: codes of few bits and one-hot vectors, with many equal distances.
    """
    if not largest or not arrays[0].shape[1]:
        return True
    bits = jnp.finfo(dtype).nmant - 2 - np.log2(arrays[0].shape[1])
    unit = 2.0 ** np.ceil(np.log2(largest) - bits / 2)
    parts = (
        rows(x) for rows in (lambda x: x[:64], lambda x: x) for x in arrays
    )  # the first rows settle most cases
    return bool(unit > 2.0**-60) and all(not (np.asarray(x) % unit).any() for x in parts)
