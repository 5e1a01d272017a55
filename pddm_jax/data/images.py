"""Labelled images, subsets of them, and splits into training and test classes."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from pddm_jax.data.streams import HOLD_OUT, SPLIT, stream


@runtime_checkable
class ImageFiles(Protocol):
    """Images that are read when they are indexed; they may differ in size."""

    def __len__(self) -> int:
        """The number of images."""

    def __getitem__(self, index: int, /) -> UInt8[np.ndarray, "h w c"]:
        """The pixels of an image."""

    def take(self, indices: Int[np.ndarray, " m"], /) -> "ImageFiles":
        """The images at these indices, in this order."""


ImageSequence = UInt8[np.ndarray, "n h w c"] | ImageFiles
"""Images in memory, all of one size, or on disk."""


class Images(NamedTuple):
    """Labelled images."""

    images: ImageSequence
    labels: Int[np.ndarray, " n"]
    class_names: dict[int, str]


class Split(NamedTuple):
    """Training and test images of disjoint classes, and a description of the split."""

    train: Images
    test: Images
    description: str


def of_classes(data: Images, classes: Int[np.ndarray, " c"]) -> Images:
    """The images of the given classes, in their order."""
    chosen = subset(data, np.flatnonzero(np.isin(data.labels, classes)))
    return chosen._replace(class_names={int(label): data.class_names[int(label)] for label in classes})


def subset(data: Images, indices: Int[np.ndarray, " m"]) -> Images:
    """The images at these indices, in this order, with the names of their classes."""
    images = data.images[indices] if isinstance(data.images, np.ndarray) else data.images.take(indices)
    labels = data.labels[indices]
    return Images(images, labels, {label: data.class_names[label] for label in np.unique(labels).tolist()})


def hold_out(data: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Hold out a share of the classes, drawn by seed: (images of the other classes, images of these).

    Raises:
        ValueError: one of the two parts would have no class.
    """
    classes = stream(seed, HOLD_OUT).permutation(np.unique(data.labels))
    count = round(share * len(classes))
    if not 0 < count < len(classes):
        raise ValueError(
            f"data.val_class_fraction of {share} holds out {count} of {len(classes)} classes: training and "
            "validation need at least one each"
        )
    return of_classes(data, classes[count:]), of_classes(data, classes[:count])


def split_half(data: Images, seed: int) -> Split:
    """Half of the classes, drawn by seed, for training (the larger half), the others for test."""
    classes = stream(seed, SPLIT).permutation(np.unique(data.labels))
    half = (len(classes) + 1) // 2
    description = f"half of the classes by seed {seed}, disjoint"
    return Split(of_classes(data, classes[:half]), of_classes(data, classes[half:]), description)
