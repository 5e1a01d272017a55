"""TensorFlow Datasets stores in array_record format, read without TensorFlow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pddm_jax.data.storage.rgb import size_of
from pddm_jax.system.regular import read_text

PARTS = ("train", "test")  # those for classification, which are joined
ENCODED = ("image", "segmentation_mask")


class Examples:
    """The images in all parts of a TensorFlow Datasets store, or at some places of them."""

    def __init__(
        self, folder: Path, parts: dict[str, Any], places: Int[np.ndarray, " n"] | None = None
    ) -> None:
        self._folder, self._parts = folder, parts
        self._ends = np.cumsum([len(part) for part in parts.values()])
        self._places = np.arange(self._ends[-1]) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def take(self, indices: Int[np.ndarray, " m"]) -> "Examples":
        """The images at these indices."""
        return Examples(self._folder, self._parts, self._places[indices])

    def _place(self, index: int) -> tuple[str, int]:
        place = int(self._places[index])
        part = int(np.searchsorted(self._ends, place, side="right"))
        name = [*self._parts][part]
        return name, place - int(self._ends[part]) + len(self._parts[name])

    def example(self, index: int) -> dict[str, Any]:
        """All features of an image.

        Raises:
            ValueError: a file of the store is corrupt.
        """
        name, place = self._place(index)
        try:
            return self._parts[name][place]
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.name(index)} cannot be read: {error}") from error

    def read(self, index: int) -> bytes:
        """The bytes of an image."""
        return self.example(index)["image"]

    def name(self, index: int) -> str:
        """The folder of the store, the part, and the index in it."""
        name, place = self._place(index)
        return f"{self._folder}/{name}[{place}]"


def find_store(root: Path, dataset: str) -> Path | None:
    """The newest version of a data set in a folder of stores or of versions; None if there is none."""
    found = [
        path
        for pattern in ("dataset_info.json", "*/dataset_info.json", f"{dataset}/*/dataset_info.json")
        for path in root.glob(pattern)
        if _name(path) == dataset
    ]
    return max(found, key=_version).parent if found else None


def _name(info: Path) -> str:
    try:
        return json.loads(read_text(info))["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{info} does not describe a TensorFlow Datasets store: {error}") from error


def _version(info: Path) -> list[int]:
    return [int(x) for x in info.parent.name.split(".") if x.isdigit()]


def read_store(
    folder: Path, first: int
) -> tuple[Examples, Int[np.ndarray, " n"], dict[int, str], Int[np.ndarray, "n 4"] | None]:
    """Images, labels, class names and boxes of a store; labels and boxes count from 0.

    Args:
        folder: of one version of the data set.
        first: the number of the first pixel in the annotations that the store was made from (0 or 1).

    Raises:
        ValueError: the store is not in array_record form, lacks a part, or is corrupt.
    """
    import tensorflow_datasets as tfds  # slow to import, and needed here only

    try:
        builder = tfds.builder_from_directory(str(folder))
        encoded = [field for field in ENCODED if field in builder.info.features]
        decoders = dict.fromkeys(encoded, tfds.decode.SkipDecoding())
        parts = {part: builder.as_data_source(part, decoders=decoders) for part in PARTS}
        names = builder.info.features["label"].names
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{folder} is not a complete store in array_record format: {error}") from error
    store = Examples(folder, parts)
    rows = [_row(store, index, first) for index in range(len(store))]
    labels = np.array([label for label, _, _ in rows], np.int32)
    boxes = [box for _, _, box in rows if box is not None]
    return (
        store,
        labels,
        dict(enumerate(names)) | {label: name for label, name, _ in rows if name},
        np.array(boxes, np.int32).reshape(-1, 4) if len(boxes) == len(rows) else None,
    )


def _row(store: Examples, index: int, first: int) -> tuple[int, str, list[int] | None]:
    example = store.example(index)
    label, name = int(example["label"]), example.get("label_name", b"").decode()
    if "bbox" not in example:
        return label, name, None
    try:
        width, height = size_of(example["image"])
    except Exception as error:  # Pillow's, of every kind
        raise ValueError(f"{store.name(index)} could not be decoded: {error}") from error
    top, left, bottom, right = (
        round(float(edge) * side) for edge, side in zip(example["bbox"], (height, width) * 2, strict=True)
    )
    return label, name, [left - first, top - first, right, bottom]
