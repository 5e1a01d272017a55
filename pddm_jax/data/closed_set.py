"""Closed sets for classification: training and test images of the same classes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from pddm_jax.data.images import Images, subset
from pddm_jax.data.streams import HALVES, stream


class ClosedSet(NamedTuple):
    """Training images of all classes, test images of these classes, and a description of the division."""

    train: Images
    test: Images
    description: str


def split_images_in_half(data: Images, seed: int) -> ClosedSet:
    """Half of the images of each class, drawn at random, for training (the larger half); the rest for test.

    Raises:
        ValueError: a class has only one image.
    """
    labels, counts = np.unique(data.labels, return_counts=True)
    if (counts < 2).any():
        name = data.class_names[int(labels[counts < 2][0])]
        raise ValueError(f"class {name!r} has only one image: training and test need at least one each")
    description = f"half of the images of each class by seed {seed}"
    return split_by_mask(data, ~per_class_mask(data, 0.5, seed), description)


def per_class_mask(data: Images, share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """A mask of a share of the images of each class, drawn by seed and rounded down.

    The stream of (seed, label) permutes the images of a class, and the last of the permutation are masked.
    So the share of a class does not depend on the other classes.
    """
    chosen = np.zeros(len(data.labels), bool)
    order = np.argsort(data.labels, kind="stable")
    labels, starts = np.unique(data.labels[order], return_index=True)
    for label, numbers in zip(labels.tolist(), np.split(order, starts)[1:], strict=True):
        permuted = stream(seed, HALVES, label).permutation(len(numbers))
        chosen[numbers[permuted[len(numbers) - int(share * len(numbers)) :]]] = True
    return chosen


def split_by_mask(data: Images, in_train: Bool[np.ndarray, " n"], description: str) -> ClosedSet:
    """The masked images for training, the others for test.

    Raises:
        ValueError: there are no test images, or a class has test images and no training images.
    """
    train, test = (subset(data, np.flatnonzero(chosen)) for chosen in (in_train, ~in_train))
    return checked(ClosedSet(train, test, description))


def checked(found: ClosedSet) -> ClosedSet:
    """The same set; ValueError if there is no test image, or a class has test images only."""
    if not len(found.test.labels):
        raise ValueError(f"there are no test images ({found.description})")
    if unknown := sorted(found.test.class_names.keys() - found.train.class_names.keys()):
        raise ValueError(
            f"{len(unknown)} classes have test images and no training images, for example "
            f"{found.test.class_names[unknown[0]]!r} ({found.description})"
        )
    return found
