"""The result of finding a data set on disk: labelled images with boxes, parts and notes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from pddm_jax.data.storage.decode import Encoded
from pddm_jax.data.storage.records import INDEX, Records, check_shards, read_index
from pddm_jax.data.storage.tfds_store import read_store

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}


class Source(NamedTuple):
    """Labelled images as they are found on disk, in any layout."""

    images: Encoded
    labels: Int[np.ndarray, " n"]
    class_names: dict[int, str]
    boxes: Int[np.ndarray, "n 4"] | None  # left, top, right, bottom in pixels, half open
    in_train: Bool[np.ndarray, " n"] | None  # if the layout has training and test parts
    layout: str  # in words; results of runs and indexes of records hold it
    notes: tuple[str, ...] = ()  # lines for the user, about the images


def cropped(source: Source) -> Source:
    """The images cut to their annotated boxes.

    Raises:
        ValueError: the source has no boxes.
    """
    if source.boxes is None:
        raise ValueError(f"data.crop=bbox needs bounding boxes; found no boxes in {source.layout}")
    return source._replace(images=source.images.cropped(source.boxes))


def find_records(root: Path, name: str) -> Source:
    """The records that `pddm_jax.data.prepare` wrote, including empty records of skipped images.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: they are of another data set, or the index or a shard is corrupt.
    """
    index = read_index(root)
    if index.source != name:
        raise ValueError(f"{root} holds prepared images of {index.source}, not of {name}")
    check_shards(root, index)
    left_out = None
    if index.skipped is not None:
        left_out = np.zeros(len(index.names), bool)
        left_out[index.skipped] = True
    names = np.array([name.encode() for name in index.names], bytes)
    images = Encoded(Records(root, index.shards, names), None, left_out)
    parts = (index.labels, index.class_names, index.boxes, index.in_train, index.layout, index.notes)
    return Source(images, *parts)


def from_store(folder: Path, first: int) -> Source:
    """A store of TensorFlow Datasets; `first` as in `read_store`."""
    store, labels, names, boxes = read_store(folder, first)
    class_names = {label + 1: name for label, name in names.items()}
    return Source(Encoded(store), labels + 1, class_names, boxes, None, "a TensorFlow Datasets store")


LONGEST = 400
"""Characters of a value in an error; few paths are longer."""


def summarize(values: Sequence[object], most: int = 3) -> str:
    """The first values, long ones shortened, and the number of the others."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    texts = [str(value) for value in values[:most]]
    return ", ".join(x if len(x) <= LONGEST else f"{x[:LONGEST]}..." for x in texts) + more


def not_found_error(
    root: Path, what: str, *looked_for: str, hints: Sequence[str] = ()
) -> FileNotFoundError:
    """The error for a folder without the images: what was looked for, and what was found."""
    wanted = "; or ".join([*looked_for, f"{INDEX} of prepared images"])
    if not root.is_dir():
        problem = "which is a file" if root.is_file() else "which does not exist"
        return FileNotFoundError(f"no {what} in {root}, {problem}: looked for {wanted}")
    inside = sorted(x.name + "/" * x.is_dir() for x in root.iterdir() if not x.name.startswith("."))
    found = f"found {summarize(inside, 20) or 'nothing'}"
    return FileNotFoundError("; ".join([f"no {what} in {root}: looked for {wanted}", *hints, found]))
