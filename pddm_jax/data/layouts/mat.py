"""MATLAB files of level 5: struct arrays, cells, text and numbers, each size checked against what is there.

SciPy's reader trusts the sizes in a file, and a corrupt one ends the process or takes all memory.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pddm_jax.system.regular import read_bytes

LARGEST = 2**28
"""Bytes of a file, and of what is compressed in it."""

DEEPEST = 16
"""Arrays within arrays."""

HEADER = 128
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, TEXT, NUMERIC = 1, 2, 4, range(6, 16)  # classes of arrays


def read_mat(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Some of the variables of a MATLAB file.

    Args:
        path: of the file.
        wanted: the variables to read; those that are not there are left out.

    Returns:
        By name: numbers as a flat array, text as a string, a cell as a list, a struct array as a dict of
        lists, one for each field; elements in MATLAB's order, columns first. Other arrays are None.

    Raises:
        OSError: there is no such file.
        ValueError: it is no MATLAB file of level 5 (as saved by -v6 and -v7), or corrupt.
    """
    data = read_bytes(path, LARGEST)
    try:
        order = {b"IM": "<", b"MI": ">"}.get(data[126:HEADER])
        if order is None or data.startswith(b"MATLAB 7.3"):
            raise ValueError("it is not of level 5: save it with -v7")
        return _variables(_Reader(data, order, HEADER, len(data)), wanted)
    except (ValueError, OverflowError, zlib.error) as error:
        raise ValueError(f"{path} is no MATLAB file that can be read: {error}") from error


def _variables(reader: "_Reader", wanted: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while reader.at < reader.end:
        kind, inner = reader.element()
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            data = inflater.decompress(reader.data[inner.at : inner.end], LARGEST + 1)
            if len(data) > LARGEST:
                raise ValueError(f"what is compressed in it has more than {LARGEST:,} bytes")
            if not inflater.eof:
                raise ValueError("it ends within a compressed variable")
            kind, inner = _Reader(data, reader.order, 0, len(data)).element()
        if kind == MATRIX:
            name, value = inner.matrix(wanted)
            if name in wanted:
                found[name] = value
    return found


@dataclass
class _Reader:
    """A stretch of the bytes of a file, read element by element."""

    data: bytes
    order: str  # of the bytes of a number
    at: int
    end: int
    depth: int = 0

    def element(self) -> tuple[int, "_Reader"]:
        """The type of the next element, and its content."""
        if self.end - self.at < 8:
            raise ValueError(f"it ends within an element, at byte {self.at}")
        first, size = np.frombuffer(self.data, f"{self.order}u4", 2, self.at).tolist()
        if first >> 16:  # both in 4 bytes, with the content in the next 4
            kind, size, start, after = first & 0xFFFF, first >> 16, self.at + 4, self.at + 8
            if size > 4:
                raise ValueError(f"an element of {size} bytes is in the place of 4, at byte {self.at}")
        else:
            kind, start = first, self.at + 8
            after = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if start + size > self.end:
            raise ValueError(
                f"an element of {size:,} bytes is in the place of {self.end - start:,}, at byte {self.at}"
            )
        self.at = min(after, self.end)  # the last may lack what fills it up
        return kind, _Reader(self.data, self.order, start, start + size, self.depth)

    def numbers(self) -> np.ndarray:
        """The next element as numbers."""
        kind, inner = self.element()
        if kind not in NUMBERS:
            raise ValueError(f"an element of type {kind} is in the place of numbers, at byte {inner.at}")
        dtype = np.dtype(f"{self.order}{NUMBERS[kind]}")
        if (inner.end - inner.at) % dtype.itemsize:
            raise ValueError(f"numbers at byte {inner.at} do not end with a whole one")
        return np.frombuffer(self.data, dtype, (inner.end - inner.at) // dtype.itemsize, inner.at)

    def text(self) -> str:
        """The next element as text."""
        kind, inner = self.element()
        if kind not in TEXTS:
            raise ValueError(f"an element of type {kind} is in the place of text, at byte {inner.at}")
        endian = {"<": "-le", ">": "-be"}[self.order] if TEXTS[kind] in ("utf-16", "utf-32") else ""
        return self.data[inner.at : inner.end].decode(TEXTS[kind] + endian)

    def matrix(self, wanted: tuple[str, ...] | None = None) -> tuple[str, Any]:
        """The name and value of an array; only the name where it is not one of those that are wanted."""
        if self.at == self.end:
            return "", np.zeros(0)
        if self.depth > DEEPEST:
            raise ValueError(f"arrays lie within arrays, more than {DEEPEST} deep")
        flags = self.numbers()
        shape, name = [int(n) for n in self.numbers()], self.text()
        if len(flags) != 2 or min(shape, default=-1) < 0:
            raise ValueError(f"an array has flags {flags.tolist()} and shape {shape}")
        if wanted is not None and name not in wanted:
            return name, None
        return name, self._value(int(flags[0]) & 0xFF, math.prod(shape))

    def _value(self, of_class: int, count: int) -> Any:
        if of_class == TEXT:
            return self.text()
        if of_class in NUMERIC:
            values = self.numbers()
            if len(values) != count:
                raise ValueError(f"{len(values)} numbers are in the place of {count}")
            return values
        if of_class == CELL:
            return self._matrices(count)
        if of_class == STRUCT:
            width, names = self.numbers(), self.text()
            if len(width) != 1 or width[0] < 1 or len(names) % int(width[0]):
                raise ValueError(f"the names of fields are {width.tolist()} long, {len(names)} in all")
            step = int(width[0])
            fields = [names[n : n + step].split("\0")[0] for n in range(0, len(names), step)]
            elements = self._matrices(count * len(fields))
            return {field: elements[n :: len(fields)] for n, field in enumerate(fields)}
        return None

    def _matrices(self, count: int) -> list[Any]:
        if count > (self.end - self.at) // 8:  # of each the type and size, at least
            raise ValueError(f"{count:,} arrays are in the place of {self.end - self.at:,} bytes")
        values = []
        for _ in range(count):
            kind, inner = self.element()
            if kind != MATRIX:
                raise ValueError(f"type {kind} is in the place of an array, at byte {inner.at}")
            inner.depth += 1
            values.append(inner.matrix()[1])
        return values
