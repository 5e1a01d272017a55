"""MATLAB files of level 5 (MAT-files): struct arrays, cells, text and numbers.

SciPy's reader trusts the sizes in a file, so a corrupt file ends the process or takes all memory. Here each
size is checked against the bytes that are there, and the limits below bound time and memory.
"""

import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pddm_jax.system.regular import read_bytes

LARGEST = 2**28
"""Bytes of a file, and of all that is compressed in it."""

MOST_ELEMENTS = 2**21
"""Elements of a file; the annotations of CARS196 are 600,000."""

MOST_DIMENSIONS = 32
MOST_FIELDS = 2**12
DEEPEST = 16
"""Arrays within arrays."""

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, TEXT, NUMERIC = 1, 2, 4, range(6, 16)  # classes of arrays
EMPTY = np.zeros(0)


def read_mat(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Read variables of a MATLAB file.

    Args:
        path: of the file.
        wanted: names of the variables; those that the file lacks are left out.

    Returns:
        By name: numbers as a flat array, text as a string, a cell as a list, a struct array as a dict of
        lists, one for each field; elements in MATLAB's order, columns first. Other arrays are None.

    Raises:
        OSError: there is no such file.
        ValueError: it is not a MATLAB file of level 5 (as saved by -v6 and -v7), or it is corrupt.
    """
    data = read_bytes(path, LARGEST)
    try:
        order = {b"IM": "<", b"MI": ">"}.get(data[126:HEADER])
        if order is None or data.startswith(b"MATLAB 7.3"):
            raise ValueError("it is not of level 5 (save it with -v7)")
        return _variables(_Reader(data, order, HEADER, len(data), _Budget(MOST_ELEMENTS)), wanted)
    except (ValueError, OverflowError, zlib.error) as error:
        raise ValueError(f"{path} is not a readable MATLAB file: {error}") from error


def _variables(reader: "_Reader", wanted: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    left = LARGEST  # bytes that may still be inflated
    while reader.at < reader.end:
        kind, inner = reader.element()
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            data = inflater.decompress(reader.data[inner.at : inner.end], left + 1)
            left -= len(data)
            if left < 0:
                raise ValueError(f"its compressed variables have more than {LARGEST:,} bytes in all")
            if not inflater.eof:
                raise ValueError("it ends within a compressed variable")
            kind, inner = replace(reader, data=data, at=0, end=len(data)).element()
        if kind == MATRIX:
            name, value = inner.matrix(wanted)
            if name in wanted:
                found[name] = value
    return found


@dataclass
class _Budget:
    """The number of elements that may still be read of a file."""

    elements: int


@dataclass
class _Reader:
    """A range of the bytes of a file, read element by element."""

    data: bytes
    order: str  # of the bytes of a number
    at: int
    end: int
    budget: _Budget
    depth: int = 0

    def element(self) -> tuple[int, "_Reader"]:
        """The type of the next element, and its content."""
        self.budget.elements -= 1
        if self.budget.elements < 0:
            raise ValueError(f"it has more than {MOST_ELEMENTS:,} elements")
        if self.end - self.at < 8:
            raise ValueError(f"it ends within an element, at byte {self.at}")
        first, size = struct.unpack_from(f"{self.order}II", self.data, self.at)
        if first >> 16:  # both in 4 bytes, with the content in the next 4
            kind, size, start, after = first & 0xFFFF, first >> 16, self.at + 4, self.at + 8
            if size > 4:
                raise ValueError(f"an element at byte {self.at} has {size} bytes in the space of 4")
        else:
            kind, start = first, self.at + 8
            after = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > self.end:
            raise ValueError(
                f"an element at byte {self.at} has {size:,} bytes, but only {self.end - start:,} are left"
            )
        self.at = min(after, self.end)  # the last may lack what fills it up
        return kind, _Reader(self.data, self.order, start, start + size, self.budget, self.depth)

    def numbers(self) -> np.ndarray:
        """The next element as numbers."""
        kind, inner = self.element()
        if kind not in NUMBERS:
            raise ValueError(f"the element at byte {inner.at} has type {kind}, expected numbers")
        dtype = np.dtype(f"{self.order}{NUMBERS[kind]}")
        if (inner.end - inner.at) % dtype.itemsize:
            raise ValueError(f"the numbers at byte {inner.at} end within a number")
        return np.frombuffer(self.data, dtype, (inner.end - inner.at) // dtype.itemsize, inner.at)

    def text(self) -> str:
        """The next element as text."""
        kind, inner = self.element()
        if kind not in TEXTS:
            raise ValueError(f"the element at byte {inner.at} has type {kind}, expected text")
        endian = {"<": "-le", ">": "-be"}[self.order] if TEXTS[kind] in ("utf-16", "utf-32") else ""
        return self.data[inner.at : inner.end].decode(TEXTS[kind] + endian)

    def matrix(self, wanted: tuple[str, ...] | None = None) -> tuple[str, Any]:
        """The name and value of an array; of an array that is not wanted only the name."""
        if self.at == self.end:
            return "", EMPTY
        if self.depth > DEEPEST:
            raise ValueError(f"its arrays are nested more than {DEEPEST} deep")
        flags, sizes = self.numbers(), self.numbers()
        if len(flags) != 2 or not 0 < len(sizes) <= MOST_DIMENSIONS:
            raise ValueError(f"an array has {len(flags)} flags and {len(sizes)} dimensions")
        shape, name = [int(n) for n in sizes], self.text()
        if min(shape) < 0:
            raise ValueError(f"an array has shape {shape}")
        if wanted is not None and name not in wanted:
            return name, None
        return name, self._value(int(flags[0]) & 0xFF, math.prod(shape))

    def _value(self, of_class: int, count: int) -> Any:
        if of_class == TEXT:
            return self.text()
        if of_class in NUMERIC:
            values = self.numbers()
            if len(values) != count:
                raise ValueError(f"an array has {len(values)} numbers, expected {count}")
            return values
        if of_class == CELL:
            return self._matrices(count)
        if of_class == STRUCT:
            width, names = self.numbers(), self.text()
            step = int(width[0]) if len(width) == 1 else 0
            if step < 1:
                raise ValueError("the length of the field names of a struct is missing or not positive")
            if len(names) % step or len(names) // step > MOST_FIELDS:
                raise ValueError(
                    f"the field names of a struct have {len(names)} characters, expected a multiple of "
                    f"{step}, at most {MOST_FIELDS} names"
                )
            fields = [names[n : n + step].split("\0")[0] for n in range(0, len(names), step)]
            elements = self._matrices(count * len(fields))
            return {field: elements[n :: len(fields)] for n, field in enumerate(fields)}
        return None

    def _matrices(self, count: int) -> list[Any]:
        if count > (self.end - self.at) // 8:  # each takes 8 bytes for its type and size, at least
            raise ValueError(f"{count:,} arrays do not fit into {self.end - self.at:,} bytes")
        values = []
        for _ in range(count):
            kind, inner = self.element()
            if kind != MATRIX:
                raise ValueError(f"the element at byte {inner.at} has type {kind}, expected an array")
            inner.depth += 1
            values.append(inner.matrix()[1])
        return values
