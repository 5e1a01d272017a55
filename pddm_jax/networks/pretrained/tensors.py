"""Tensors by name out of PyTorch's and safetensors' files, without PyTorch and without running anything."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pddm_jax.networks.pretrained.safetensors_files import open_safetensors
from pddm_jax.networks.pretrained.tensor_layout import Layout, Reader, read_layouts, shown
from pddm_jax.networks.pretrained.torch_files import open_legacy, open_zip
from pddm_jax.system.regular import open_regular

NAMED = 12
"""How many names an error lists."""
LINE = 300
"""Characters of an error."""


def _named_layouts(tree: Any) -> dict[str, Layout]:
    """The tensors of a checkpoint, which may hold them under `state_dict` or `model`."""
    for key in ("state_dict", "model"):
        if type(tree) is dict and type(tree.get(key)) is dict:
            tree = tree[key]
    if type(tree) is not dict:
        raise ValueError(f"it holds a {type(tree).__name__}, not tensors by name")
    other = [name for name, x in tree.items() if not (type(name) is str and type(x) is Layout)]
    if other:
        names = [shown(name) if type(name) is str else name for name in other[:NAMED]]
        more = f" and {len(other) - NAMED} more" * (len(other) > NAMED)
        raise ValueError(f"these are no tensors: {names}{more}")
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
def _told_by_name(path: Path) -> Iterator[None]:
    """Any error as a ValueError of one line that names the file."""
    try:
        yield
    except Exception as error:  # corrupt bytes make zipfile and json raise almost anything
        of_ours = type(error) is ValueError
        told = str(error) if of_ours else f"it is damaged: {str(error) or type(error).__name__}"
        line = " ".join(told.split())
        line = line if line.isprintable() else ascii(line)
        line = line if len(line) <= LINE else f"{line[:LINE]}..."
        raise ValueError(f"{path} cannot be read as tensors: {line}") from error


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors, of which only names, shapes and dtypes have been read."""

    path: Path
    layouts: Mapping[str, Layout]
    reader: Reader

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The tensors of these names, read-only; they may share memory.

        Raises:
            ValueError: the file is damaged where they lie.
        """
        with _told_by_name(self.path):
            return read_layouts(self.reader, {name: self.layouts[name] for name in names})


@contextmanager
def open_tensors(path: str | Path) -> Iterator[TensorFile]:
    """A file of tensors, open until the block ends. Errors are those of `read_tensors`."""
    path = Path(path)
    with open_regular(path) as file:
        with _told_by_name(path):
            reader, layouts = _open(file, path)
        yield TensorFile(path, layouts, reader)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name: a PyTorch checkpoint, zip or legacy (before 1.6), or safetensors.

    A checkpoint may hold the tensors themselves, or under `state_dict` or `model`. Half-precision
    floats (float16, bfloat16) come as float32, all else as it is stored. Arrays may share
    memory and are not to be written to.

    Raises:
        OSError: there is no such file, or it may not be read.
        ValueError: it is no regular file, truncated, corrupt or of another kind, or its pickle asks for
            anything but tensors; the text names the file and what was refused. Nothing that it asks for is
            run, and little memory is taken before all sizes have been compared.
    """
    with open_tensors(path) as file:
        return file.read(file.layouts)
