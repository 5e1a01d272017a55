"""A set of labelled images in memory, and how one is split into classes for training and for test."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from pddm_jax.data.streams import SPLIT, stream


class Images(NamedTuple):
    """Labelled images of one size."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    class_names: dict[int, str]


class Split(NamedTuple):
    """Training and test images of disjoint classes, and in words how they were parted."""

    train: Images
    test: Images
    rule: str


def of_classes(data: Images, classes: Int[np.ndarray, " c"]) -> Images:
    """The images of some classes, in their order."""
    chosen = np.isin(data.labels, classes)
    names = {int(label): data.class_names[int(label)] for label in classes}
    return Images(data.images[chosen], data.labels[chosen], names)


def split_half(data: Images, seed: int) -> Split:
    """Half of the classes, drawn by seed, for training (the larger half), the others for test."""
    classes = stream(seed, SPLIT).permutation(np.unique(data.labels))
    half = (len(classes) + 1) // 2
    rule = f"half of the classes by seed {seed}, disjoint"
    return Split(of_classes(data, classes[:half]), of_classes(data, classes[half:]), rule)
