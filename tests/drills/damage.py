"""Ways in which a file can be damaged, each at a seeded place."""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def truncate(path: Path, rng: np.random.Generator) -> None:
    """Keep the first half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip(path: Path, rng: np.random.Generator) -> None:
    """Flip one bit anywhere."""
    data = bytearray(path.read_bytes())
    if data:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def remove(path: Path, rng: np.random.Generator) -> None:
    """Remove the file."""
    path.unlink()


def empty(path: Path, rng: np.random.Generator) -> None:
    """Keep nothing of it."""
    path.write_bytes(b"")


def folder(path: Path, rng: np.random.Generator) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, np.random.Generator], None]] = {
    of.__name__: of for of in (truncate, flip, remove, empty, folder)
}


def files(root: Path) -> list[str]:
    """Every file below a folder, relative to it."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
