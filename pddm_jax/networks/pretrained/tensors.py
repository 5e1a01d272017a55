"""Tensors of PyTorch checkpoints and safetensors files by name, without PyTorch or code execution."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pddm_jax.networks.pretrained.safetensors_files import open_safetensors
from pddm_jax.networks.pretrained.tensor_layout import Layout, Reader, printable, read_layouts
from pddm_jax.networks.pretrained.torch_files import open_legacy, open_zip
from pddm_jax.system.regular import open_regular

MAX_NAMES = 12
"""Names that an error lists."""
MAX_LINE = 300
"""Characters of an error."""


def _named_layouts(tree: Any) -> dict[str, Layout]:
    """The tensors of a checkpoint, which may hold them under `state_dict` or `model`."""
    for key in ("state_dict", "model"):
        if type(tree) is dict and type(tree.get(key)) is dict:
            tree = tree[key]
    if type(tree) is not dict:
        raise ValueError(f"it holds a {type(tree).__name__}, not tensors by name")
    others = [name for name, x in tree.items() if not (type(name) is str and type(x) is Layout)]
    if others:
        names = [printable(name) if type(name) is str else name for name in others[:MAX_NAMES]]
        more = f" and {len(others) - MAX_NAMES} more" * (len(others) > MAX_NAMES)
        raise ValueError(f"these entries are not tensors: {names}{more}")
    return tree


def _open(file: IO[bytes], path: Path) -> tuple[Reader, dict[str, Layout]]:
    start = file.read(9)
    if not start:
        raise ValueError("it is empty")
    if start.endswith(b"{") and len(start) == 9:
        return open_safetensors(file, path)
    reader, tree = (open_zip if start.startswith(b"PK") else open_legacy)(file)
    return reader, _named_layouts(tree)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn any error into a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:  # corrupt bytes make zipfile and json raise almost anything
        known = type(error) is ValueError
        reason = str(error) if known else f"it is damaged: {str(error) or type(error).__name__}"
        line = " ".join(reason.split())
        line = line if line.isprintable() else ascii(line)
        line = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."
        raise ValueError(f"{path} cannot be read as tensors: {line}") from error


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors: names, shapes and dtypes have been read, the numbers have not."""

    path: Path
    layouts: Mapping[str, Layout]
    reader: Reader

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The tensors of these names, read-only; they may share memory.

        Raises:
            ValueError: the file is damaged at one of them.
        """
        with _errors_of(self.path):
            return read_layouts(self.reader, {name: self.layouts[name] for name in names})


@contextmanager
def open_tensors(path: str | Path) -> Iterator[TensorFile]:
    """Open a file of tensors until the block ends. Errors are those of `read_tensors`."""
    path = Path(path)
    with open_regular(path) as file:
        with _errors_of(path):
            reader, layouts = _open(file, path)
        yield TensorFile(path, layouts, reader)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read the tensors of a file by name: a PyTorch checkpoint, zip or legacy (before 1.6), or safetensors.

    A checkpoint may hold the tensors at its top level, or under `state_dict` or `model`. Half-precision
    floats (float16, bfloat16) are returned as float32, other dtypes as they are stored. The arrays are
    read-only, and may share memory.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not a regular file, is truncated, corrupt or of another format, or its pickle
            names anything but tensors; the text names the file and the reason. Nothing that the file names
            is executed, and little memory is allocated before all sizes have been compared.
    """
    with open_tensors(path) as file:
        return file.read(file.layouts)
