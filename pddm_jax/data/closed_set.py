"""Closed sets: other images of the same classes for training and for test, as classification needs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from pddm_jax.data.images import Images, subset
from pddm_jax.data.streams import HALVES, stream


class ClosedSet(NamedTuple):
    """Training images of all classes, test images of no others, and in words how they were parted."""

    train: Images
    test: Images
    description: str


def halves(data: Images, seed: int) -> ClosedSet:
    """Half of the images of each class, drawn by seed, for training (the larger half), the others for test.

    Raises:
        ValueError: a class has one image only.
    """
    labels, counts = np.unique(data.labels, return_counts=True)
    if (counts < 2).any():
        name = data.class_names[int(labels[counts < 2][0])]
        raise ValueError(f"class {name!r} has one image, which cannot be halved")
    description = f"half of the images of each class by seed {seed}"
    return parted(data, ~per_class_mask(data, 0.5, seed), description)


def per_class_mask(data: Images, share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which images are in a share of each class, drawn by seed and rounded down.

    Of a class of n images those are not in it that come first in the permutation of n that the stream of
    (seed, label) draws: so the share of a class does not depend on what other classes there are.
    """
    chosen = np.zeros(len(data.labels), bool)
    order = np.argsort(data.labels, kind="stable")
    labels, starts = np.unique(data.labels[order], return_index=True)
    for label, numbers in zip(labels.tolist(), np.split(order, starts)[1:], strict=True):
        permuted = stream(seed, HALVES, label).permutation(len(numbers))
        chosen[numbers[permuted[len(numbers) - int(share * len(numbers)) :]]] = True
    return chosen


def parted(data: Images, in_train: Bool[np.ndarray, " n"], description: str) -> ClosedSet:
    """Some of the images for training, the others for test.

    Raises:
        ValueError: there are no test images, or those of a class have none for training beside them.
    """
    train, test = (subset(data, np.flatnonzero(chosen)) for chosen in (in_train, ~in_train))
    return checked(ClosedSet(train, test, description))


def checked(found: ClosedSet) -> ClosedSet:
    """The same; ValueError where there are no test images, or a class of theirs has none for training."""
    if not len(found.test.labels):
        raise ValueError(f"there are no images for test ({found.description})")
    if unknown := sorted(found.test.class_names.keys() - found.train.class_names.keys()):
        raise ValueError(
            f"{len(unknown)} classes have test images but none for training, such as "
            f"{found.test.class_names[unknown[0]]!r} ({found.description})"
        )
    return found
