"""Layouts of tensors in a file: a storage, which is a run of numbers, with a shape and strides over it."""

import math
from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
import numpy as np

BFLOAT16 = np.dtype(jnp.bfloat16)
HALF = (np.dtype("<f2"), BFLOAT16)
MAX_DIMENSIONS = 32  # the limit of NumPy before 2.0
MAX_BYTES = 2**62  # of a tensor, so that no product in NumPy overflows
MAX_NAME = 80  # characters of a name in an error


def printable(name: object) -> str:
    """A name from a file for an error message: one printable line of bounded length."""
    if not isinstance(name, str):
        return f"a {type(name).__name__}"
    start = name[:MAX_NAME]
    text = start if start.isprintable() else ascii(start)
    return text if len(name) <= MAX_NAME else f"{text}... ({len(name)} characters)"


def is_count(value: object) -> bool:
    """Whether a value from a file is an integer in [0, 2^63)."""
    return type(value) is int and 0 <= value < 2**63


@dataclass(frozen=True)
class Storage:
    """A run of `length` numbers, found in its file by `key`."""

    key: str
    dtype: np.dtype
    length: int

    def __post_init__(self) -> None:
        if type(self.key) is not str:
            raise ValueError(f"the key of a storage is {printable(self.key)}, not a string")
        if not is_count(self.length) or self.length * self.dtype.itemsize > MAX_BYTES:
            raise ValueError(f"storage {printable(self.key)} has an impossible length")

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.length * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """A tensor: its element [i, j, ...] is number offset + i strides[0] + j strides[1] + ... of a storage.

    Raises:
        ValueError: it does not lie within its storage.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMENSIONS:
            raise ValueError(
                f"a tensor has {len(self.shape)} dimensions and {len(self.strides)} strides: they must be "
                f"equal, at most {MAX_DIMENSIONS}"
            )
        if not all(is_count(n) for n in (self.offset, *self.shape, *self.strides)):
            raise ValueError("a tensor has an offset, shape or stride that is not an integer in [0, 2^63)")
        # A dimension of 0 makes the product 0, but NumPy multiplies the others as well.
        if math.prod(max(n, 1) for n in self.shape) * self.storage.dtype.itemsize > MAX_BYTES:
            raise ValueError(f"a tensor has the impossible shape {list(self.shape)}")
        if self.stop > self.storage.length:
            raise ValueError(
                f"a tensor of shape {list(self.shape)} lies outside its storage, which has "
                f"{self.storage.length} numbers"
            )

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the tensor after reading: half-precision floats become float32."""
        return np.dtype(np.float32) if self.storage.dtype in HALF else self.storage.dtype

    @property
    def stop(self) -> int:
        """One past the last number of the storage that it uses; `offset` if it is empty."""
        if 0 in self.shape:
            return self.offset
        steps = zip(self.shape, self.strides, strict=True)
        return self.offset + sum((n - 1) * stride for n, stride in steps) + 1

    def view(self, stored: np.ndarray, start: int) -> np.ndarray:
        """The tensor as a view of the numbers start, start + 1, ... of its storage.

        It is not copied: strides of 0 may make a tensor of one number larger than memory.
        """
        strides = [stride * stored.itemsize for stride in self.strides]
        first = stored[self.offset - start :]
        return np.lib.stride_tricks.as_strided(first, self.shape, strides, writeable=False)


class Reader(Protocol):
    """Source of the numbers of storages."""

    def read(self, storage: Storage, start: int, stop: int) -> bytes | bytearray:
        """The bytes of the numbers start, ..., stop - 1; ValueError if they are missing."""


def read_layouts(reader: Reader, layouts: dict[str, Layout]) -> dict[str, np.ndarray]:
    """The tensors by name. Each storage is read once, from the first to the last number in use."""
    extents: dict[Storage, tuple[int, int]] = {}
    for layout in layouts.values():
        if layout.stop > layout.offset:
            first, last = extents.get(layout.storage, (layout.offset, layout.stop))
            extents[layout.storage] = min(first, layout.offset), max(last, layout.stop)
    stored = {}
    for storage, (start, stop) in extents.items():
        found = np.frombuffer(reader.read(storage, start, stop), storage.dtype)
        stored[storage] = found.astype(np.float32) if storage.dtype in HALF else found
    return {
        name: layout.view(stored[layout.storage], extents[layout.storage][0])
        if layout.stop > layout.offset
        else np.empty(layout.shape, layout.dtype)
        for name, layout in layouts.items()
    }
