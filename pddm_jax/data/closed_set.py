"""Closed sets: other images of the same classes for training and for test, as classification needs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from pddm_jax.data.images import Images, some
from pddm_jax.data.streams import HALVES, stream


class ClosedSet(NamedTuple):
    """Training images of all classes, test images of no others, and in words how they were parted."""

    train: Images
    test: Images
    rule: str


def halves(data: Images, seed: int) -> ClosedSet:
    """Half of the images of each class, drawn by seed, for training (the larger half), the others for test.

    Of a class of n images those are for training that come first in the permutation of n that the stream
    of (seed, label) draws: so the halves of a class do not depend on what other classes there are.

    Raises:
        ValueError: a class has one image only.
    """
    in_train = np.zeros(len(data.labels), bool)
    order = np.argsort(data.labels, kind="stable")
    labels, starts = np.unique(data.labels[order], return_index=True)
    for label, numbers in zip(labels.tolist(), np.split(order, starts)[1:], strict=True):
        if len(numbers) < 2:
            raise ValueError(f"class {data.class_names[label]!r} has one image, which cannot be halved")
        drawn = stream(seed, HALVES, label).permutation(len(numbers))
        in_train[numbers[drawn[: (len(numbers) + 1) // 2]]] = True
    return parted(data, in_train, f"half of the images of each class by seed {seed}")


def parted(data: Images, in_train: Bool[np.ndarray, " n"], rule: str) -> ClosedSet:
    """Some of the images for training, the others for test.

    Raises:
        ValueError: there are no test images, or those of a class have none for training beside them.
    """
    train, test = (some(data, np.flatnonzero(chosen)) for chosen in (in_train, ~in_train))
    return checked(ClosedSet(train, test, rule))


def checked(found: ClosedSet) -> ClosedSet:
    """The same; ValueError where there are no test images, or a class of theirs has none for training."""
    if not len(found.test.labels):
        raise ValueError(f"there are no images for test ({found.rule})")
    if unknown := sorted(found.test.class_names.keys() - found.train.class_names.keys()):
        raise ValueError(
            f"{len(unknown)} classes have test images but none for training, such as "
            f"{found.test.class_names[unknown[0]]!r} ({found.rule})"
        )
    return found
