"""All images of a data set in the order in which it lists them, and the file of their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from pddm_jax.data.images import Images, ImageSequence
from pddm_jax.data.storage.decode import Encoded
from pddm_jax.system.files import write_text
from pddm_jax.system.regular import read_text


@dataclass(frozen=True)
class Joined:
    """Images of several sequences in any order: image i is `sequences[of[i]][numbers[i]]`."""

    sequences: Sequence[ImageSequence]
    of: Int[np.ndarray, " n"]  # which sequence
    numbers: Int[np.ndarray, " n"]  # in it

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """The pixels of an image."""
        return self.sequences[int(self.of[index])][int(self.numbers[index])]

    def take(self, indices: Int[np.ndarray, " m"]) -> "Joined":
        """The images at these indices, in this order."""
        return Joined(self.sequences, self.of[indices], self.numbers[indices])


class Listing(NamedTuple):
    """Images in the order of the data set: row i is image i."""

    images: ImageSequence
    labels: Int[np.ndarray, " n"]
    parts: UInt8[np.ndarray, " n"]  # the number of its part
    names: list[str]

    def since(self, row: int) -> ImageSequence:
        """The images from a row on."""
        if isinstance(self.images, np.ndarray):
            return self.images[row:]
        return self.images.take(np.arange(row, len(self.labels)))


def listing(images: Mapping[str, Images], root: str | None) -> Listing:
    """The images of all parts in the order in which the data set lists them; images in memory part by part.

    Args:
        images: by name of the part.
        root: the data set's folder; file names are relative to it.
    """
    every = [*images.values()]
    sizes = [len(of.labels) for of in every]
    part = np.repeat(np.arange(len(every), dtype=np.uint8), sizes)
    labels = np.concatenate([of.labels for of in every])
    within = np.concatenate([np.arange(size) for size in sizes])
    files = [of.images for of in every if isinstance(of.images, Encoded)]
    if len(files) < len(every):
        names = [f"{name}/{n}" for name, of in images.items() for n in range(len(of.labels))]
        return Listing(np.concatenate([np.asarray(of.images) for of in every]), labels, part, names)
    order = np.argsort(np.concatenate([of.numbers() for of in files]), kind="stable")
    base = f"{Path(root).expanduser()}/" if root else ""
    names = [of.name(n).removeprefix(base) for of in files for n in range(len(of))]
    joined = Joined(files, part[order], within[order])
    return Listing(joined, labels[order], part[order], [names[n] for n in order.tolist()])


def write_names(path: Path, names: list[str]) -> None:
    """Write names, one UTF-8 line each; backslashes and unprintable characters are escaped."""
    write_text(path, "".join(f"{_escaped(name)}\n" for name in names))


def read_names(path: Path) -> list[str]:
    """The names that `write_names` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8.
    """
    return [ESCAPE.sub(_character, line) for line in read_text(path).split("\n")[:-1]]


ESCAPE = re.compile(r"\\(\\|[nrt]|x..|u....|U........)")


def _escaped(name: str) -> str:
    if name.isprintable() and "\\" not in name:
        return name
    plain = (x.isprintable() and x != "\\" for x in name)
    return "".join(
        x if is_plain else x.encode("unicode_escape").decode()
        for x, is_plain in zip(name, plain, strict=True)
    )


def _character(escape: re.Match[str]) -> str:
    return escape[0].encode().decode("unicode_escape")
