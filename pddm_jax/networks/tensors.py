"""Tensors by name out of PyTorch's and safetensors' files, without PyTorch.

A pickle may call anything that it can name. The reader here knows the few names that tensors need, and
refuses every other. A kind of storage is known by a plain string: NumPy's own dtypes could be altered by
a pickle's state.
"""

import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

BFLOAT16 = np.dtype(jnp.bfloat16)
HALF = (np.dtype("<f2"), BFLOAT16)

TORCH_DTYPES = {
    "BFloat16Storage": BFLOAT16,
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("<u1"),
    "CharStorage": np.dtype("<i1"),
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "ShortStorage": np.dtype("<i2"),
}

SAFETENSORS_DTYPES = {
    "BF16": BFLOAT16,
    "BOOL": np.dtype("?"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "I8": np.dtype("<i1"),
    "U8": np.dtype("<u1"),
}

# What a legacy checkpoint begins with, each as a pickle of its own (torch/serialization.py).
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    length: int


class _View(NamedTuple):
    """A tensor before its storage has been read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, stored: np.ndarray) -> np.ndarray:
        """The elements at `offset + index . strides` of the storage."""
        if min((self.offset, *self.shape, *self.strides)) < 0 or len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor has offset, shape and strides {self[1:]}")
        last = self.offset + sum(
            (n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)
        )
        if 0 not in self.shape and last >= len(stored):
            raise ValueError(f"a tensor {self[1:]} lies outside its storage of {len(stored)} elements")
        strides = [stride * stored.itemsize for stride in self.strides]
        # Not copied: one element may stand for a tensor that no memory holds.
        return np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, strides, writeable=False)


def _view(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


def _parameter(view: _View, *_: Any) -> _View:
    return view


GLOBALS = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _view,
    **{f"torch.{name}": name for name in TORCH_DTYPES},
}


class _Unpickler(pickle.Unpickler):
    """Knows `GLOBALS` and storages, and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in GLOBALS:
            raise ValueError(f"it asks for {path}, which is refused")
        return GLOBALS[path]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, name, key, _, length, *view = pid
        if kind != "storage" or name not in TORCH_DTYPES or view not in ([], [None]):
            raise ValueError(f"it refers to {pid!r}, which is no storage")
        storage = _Storage(key, TORCH_DTYPES[name], length)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"storage {key} is described twice and differently")
        return storage


def _from_bytes(data: bytes, dtype: np.dtype, length: int) -> np.ndarray:
    if len(data) != length * dtype.itemsize:
        raise ValueError(f"{length} elements of {dtype} should follow, there are {len(data)} bytes")
    found = np.frombuffer(data, dtype)
    return found.astype(np.float32) if dtype in HALF else found


def _read_zip(file: IO[bytes]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise ValueError("it is a zip file without data.pkl")
        root = pickled.removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist() and archive.read(root + "byteorder") != b"little":
            raise ValueError("it is not little-endian")
        with archive.open(pickled) as stream:
            unpickler = _Unpickler(stream)
            tree = unpickler.load()
        stored = {
            key: _from_bytes(archive.read(f"{root}data/{key}"), dtype, length)
            for key, dtype, length in unpickler.storages.values()
        }
    return _filled(tree, stored)


def _read_legacy(file: IO[bytes]) -> dict[str, np.ndarray]:
    if [_Unpickler(file).load(), _Unpickler(file).load()] != [MAGIC, PROTOCOL]:
        raise ValueError("it is neither a PyTorch checkpoint nor a safetensors file")
    if not _Unpickler(file).load()["little_endian"]:
        raise ValueError("it is not little-endian")
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    stored = {}
    for key in _Unpickler(file).load():
        _, dtype, length = unpickler.storages[key]
        if struct.unpack("<q", file.read(8)) != (length,):
            raise ValueError(f"storage {key} has not the length that was told")
        stored[key] = _from_bytes(file.read(length * dtype.itemsize), dtype, length)
    return _filled(tree, stored)


def _filled(tree: Any, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, which may hold them under `state_dict` or `model`."""
    for key in ("state_dict", "model"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    if not isinstance(tree, dict):
        raise ValueError(f"it holds a {type(tree).__name__}, not tensors by name")
    other = [name for name, view in tree.items() if not (isinstance(name, str) and isinstance(view, _View))]
    if other:
        raise ValueError(f"these are no tensors: {other}")
    return {name: view.read(stored[view.storage.key]) for name, view in tree.items()}


def _read_safetensors(file: IO[bytes]) -> dict[str, np.ndarray]:
    """8 bytes of length, a header in JSON, then the tensors (https://github.com/huggingface/safetensors)."""
    (size,) = struct.unpack("<Q", file.read(8))
    header, data = json.loads(file.read(size)), file.read()
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        (start, end), shape = entry["data_offsets"], entry["shape"]
        dtype = SAFETENSORS_DTYPES[entry["dtype"]]
        tensors[name] = _from_bytes(data[start:end], dtype, math.prod(shape)).reshape(shape)
    return tensors


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name: a PyTorch checkpoint, zip or legacy (before 1.6), or safetensors.

    A checkpoint may hold the tensors themselves, or under `state_dict` or `model`. Half-precision
    floats (float16, bfloat16) come as float32, all else as it is stored. Arrays may share
    memory and are not to be written to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, corrupt or of another kind, or its pickle asks for anything but
            tensors; the text names the file and what was refused. Nothing that it asks for is run.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(0)
        try:
            if start.startswith(b"PK"):
                return _read_zip(file)
            if start.endswith(b"{") and len(start) == 9:
                return _read_safetensors(file)
            return _read_legacy(file)
        except Exception as error:  # corrupt bytes make pickle raise almost anything
            told = str(error) if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"{path} cannot be read as tensors: {told}") from error
