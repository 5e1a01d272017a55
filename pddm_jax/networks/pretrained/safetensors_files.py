"""safetensors: 8 bytes of length, a header in JSON, then the tensors (https://github.com/huggingface/safetensors)."""

import json
import os
import struct
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from pddm_jax.networks.pretrained.tensor_layout import (
    BFLOAT16,
    MAX_DIMENSIONS,
    Layout,
    Reader,
    Storage,
    shown,
)
from pddm_jax.networks.pretrained.torch_files import AtPositions

MAX_HEADER = 4 * 2**20
"""Bytes: some 40,000 tensors. What reads it takes some 30 times as much."""

DTYPES = {
    "BF16": BFLOAT16,
    "BOOL": np.dtype("?"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("<i1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "U8": np.dtype("<u1"),
}


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. The format forbids two entries of one name, but its reader takes the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its header has {shown(name)} twice")
        found[name] = value
    return found


def _layout(name: str, dtype: str, shape: list[int], nbytes: int) -> Layout:
    if dtype not in DTYPES:
        raise ValueError(
            f"{shown(name)} has dtype {dtype}, which is not one of {', '.join(sorted(DTYPES))}"
        )
    if len(shape) > MAX_DIMENSIONS:  # before they are multiplied
        raise ValueError(f"{shown(name)} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    storage = Storage(name, DTYPES[dtype], nbytes // DTYPES[dtype].itemsize)
    strides = [*accumulate(shape[:0:-1], mul, initial=1)][::-1]
    return Layout(storage, 0, tuple(shape), tuple(strides[-len(shape) :] if shape else ()))


def open_safetensors(file: IO[bytes], path: Path) -> tuple[Reader, dict[str, Layout]]:
    """Where the tensors of a file lie, by name.

    The package `safetensors` checks the header: its syntax, and that the tensors fill the rest of the file
    without gaps or overlaps.

    Raises:
        ValueError: it is damaged, has a name twice or a dtype that NumPy lacks, or its header is too large.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(MAX_HEADER, size - 8):
        raise ValueError(
            f"its header should have {length} bytes: the file has {size}, and {MAX_HEADER} are allowed"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_twins)
        with safe_open(path, framework="numpy"):
            pass
    except RecursionError as error:
        raise ValueError("its header nests too deeply") from error
    except SafetensorError as error:
        told = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(f"its header is refused: {told}") from error
    header.pop("__metadata__", None)
    layouts, positions = {}, {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        layouts[name] = _layout(name, entry["dtype"], entry["shape"], stop - start)
        positions[name] = 8 + length + start
    return AtPositions(file, positions), layouts
