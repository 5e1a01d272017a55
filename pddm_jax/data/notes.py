"""What a user should know of labelled images, each in a line: equal images, and classes of one image."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from absl import logging

from pddm_jax.data.images import Images
from pddm_jax.data.storage.decode import Key


def same_bytes(
    keys: Mapping[int, Key],
    labels: Sequence[int],
    parts: Sequence[Hashable],
    read: Callable[[int], bytes],
    name: Callable[[int], str],
) -> str | None:
    """How many images have the same bytes as one of another class or part, and an example.

    Args:
        keys: of the images that are looked at, by number; only those with equal keys are read.
        labels: the class of each image.
        parts: the part of each, such as training or test.
        read: the bytes of an image.
        name: its name.

    Returns:
        A line; None where there are none.
    """
    by_key: dict[Key, list[int]] = {}
    for number, key in keys.items():
        by_key.setdefault(key, []).append(number)
    found: list[list[int]] = []
    for numbers in by_key.values():
        if len({(labels[n], parts[n]) for n in numbers}) > 1:
            found += _equal(numbers, read)
    groups = [numbers for numbers in found if len({(labels[n], parts[n]) for n in numbers}) > 1]
    if not groups:
        return None
    in_classes = any(len({labels[n] for n in numbers}) > 1 for numbers in groups)
    in_parts = any(len({parts[n] for n in numbers}) > 1 for numbers in groups)
    where = ["in several classes"] * in_classes + ["in training and test"] * in_parts
    first = groups[0]
    other = next(n for n in first if (labels[n], parts[n]) != (labels[first[0]], parts[first[0]]))
    return (
        f"{sum(map(len, groups))} images have the same bytes as others, {' and '.join(where)}, for example "
        f"{name(first[0])} and {name(other)}"
    )


def _equal(numbers: list[int], read: Callable[[int], bytes]) -> list[list[int]]:
    """The numbers of equal images, group by group."""
    groups: dict[bytes, list[int]] = {}
    for number in numbers:
        try:
            groups.setdefault(hashlib.sha256(read(number)).digest(), []).append(number)
        except (OSError, ValueError):
            continue  # it is named where it is decoded
    return [group for group in groups.values() if len(group) > 1]


def small_classes(data: Images, part: str) -> str | None:
    """How many classes have one image, and an example; None where there are none."""
    labels, counts = np.unique(data.labels, return_counts=True)
    alone = labels[counts == 1].tolist()
    if not alone:
        return None
    return (
        f"{len(alone)} of {len(labels)} {part} classes have one image, for example "
        f"{data.class_names[alone[0]]!r}: it has no other to be compared with"
    )


def warn(notes: Sequence[str | None]) -> None:
    """Log each note that there is."""
    for note in notes:
        if note:
            logging.warning("data: %s", note)
