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
    printable,
)
from pddm_jax.networks.pretrained.torch_files import AtPositions

MAX_HEADER = 4 * 2**20
"""Bytes: some 40,000 tensors. Parsing takes about 30 times as much memory."""

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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. The format forbids duplicate names, but the package `safetensors` takes the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its header has {printable(name)} twice")
        found[name] = value
    return found


def _layout(name: str, dtype: str, shape: list[int], nbytes: int) -> Layout:
    if dtype not in DTYPES:
        raise ValueError(f"{printable(name)} must have a dtype of {', '.join(sorted(DTYPES))}, got {dtype}")
    if len(shape) > MAX_DIMENSIONS:  # before they are multiplied
        raise ValueError(f"{printable(name)} has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    storage = Storage(name, DTYPES[dtype], nbytes // DTYPES[dtype].itemsize)
    strides = [*accumulate(shape[:0:-1], mul, initial=1)][::-1]
    return Layout(storage, 0, tuple(shape), tuple(strides[-len(shape) :] if shape else ()))


def open_safetensors(file: IO[bytes], path: Path) -> tuple[Reader, dict[str, Layout]]:
    """The layouts of the tensors of a file, by name.

    The package `safetensors` checks the header: its syntax, and that the tensors fill the rest of the file
    without gaps or overlaps.

    Raises:
        ValueError: it is damaged, has a duplicate name, a dtype that NumPy lacks, or too large a header.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(MAX_HEADER, size - 8):
        raise ValueError(
            f"its header should have {length} bytes, but the file has {size}, and the limit is {MAX_HEADER}"
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_unique)
        with safe_open(path, framework="numpy"):
            pass
    except RecursionError as error:
        raise ValueError("its header nests too deeply") from error
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(f"its header is invalid: {reason}") from error
    header.pop("__metadata__", None)
    layouts, positions = {}, {}
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        layouts[name] = _layout(name, entry["dtype"], entry["shape"], stop - start)
        positions[name] = 8 + length + start
    return AtPositions(file, positions), layouts
