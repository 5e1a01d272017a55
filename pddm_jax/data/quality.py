"""Quality of labelled images: images that cannot be read, images of equal bytes, classes of one image."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from absl import logging

from pddm_jax.data.closed_set import ClosedSet
from pddm_jax.data.images import Images, Split, subset
from pddm_jax.data.storage.decode import Encoded, Key, SkippedImage, Survey, survey

SplitOrClosedSet = TypeVar("SplitOrClosedSet", Split, ClosedSet)


def readable(split: SplitOrClosedSet, skip: bool) -> SplitOrClosedSet:
    """The split without unreadable images if `skip`, else a ValueError that names some of them.

    Images that were skipped when records were written are left out either way. Images of equal bytes in
    several classes, or in training and test, are reported.
    """
    parts = split.train, split.test
    images = [part.images for part in parts if isinstance(part.images, Encoded)]
    surveys = [survey(of_part) for of_part in images]
    errors = [error for of_part in surveys for error in of_part.errors.values()]
    bad = [str(error) for error in errors if not isinstance(error, SkippedImage)]
    if bad and not skip:
        raise ValueError(
            f"{len(bad)} of {sum(len(part.labels) for part in parts)} images cannot be read: "
            f"{'; '.join(bad[:3])}{'; ...' if len(bad) > 3 else ''} "
            "(--config.data.on_error=skip leaves them out)"
        )
    for error in errors:
        logging.warning("left out: %s", error)
    for name, part, of_part in zip(("train", "test"), parts, surveys, strict=True):
        if of_part.errors and len(of_part.errors) == len(part.labels):
            one = next(iter(of_part.errors.values()))
            raise ValueError(f"none of the {len(of_part.errors)} images for {name} can be read: {one}")
    warn([_equal_images(split, images, surveys)])
    train, test = (
        _without(part, list(of_part.errors)) for part, of_part in zip(parts, surveys, strict=True)
    )
    left_out = f"; {len(errors)} unreadable images left out" if errors else ""
    return split._replace(train=train, test=test, description=split.description + left_out)


def _equal_images(
    split: Split | ClosedSet, images: Sequence[Encoded], surveys: Sequence[Survey]
) -> str | None:
    """A note on images of equal bytes; the test images are numbered after the training images."""
    labels = [part.labels.tolist() for part in (split.train, split.test)]
    places = [(part, number) for part, of_part in enumerate(labels) for number in range(len(of_part))]
    first = len(labels[0])
    return same_bytes(
        surveys[0].keys | {first + number: key for number, key in surveys[1].keys.items()},
        labels[0] + labels[1],
        [part for part, _ in places],
        lambda n: images[places[n][0]].read(places[n][1]),
        lambda n: images[places[n][0]].name(places[n][1]),
    )


def _without(data: Images, indices: list[int]) -> Images:
    """All images but those at these indices, and the classes that are left."""
    return subset(data, np.setdiff1d(np.arange(len(data.labels)), indices)) if indices else data


def same_bytes(
    keys: Mapping[int, Key],
    labels: Sequence[int],
    parts: Sequence[Hashable],
    read: Callable[[int], bytes],
    name: Callable[[int], str],
) -> str | None:
    """A note on images that have the same bytes as an image of another class or part, with an example.

    Args:
        keys: of the images to be compared, by number; only images with equal keys are read.
        labels: the class of each image.
        parts: the part of each image, such as training or test.
        read: the bytes of an image.
        name: its name.

    Returns:
        One line; None if there are no such images.
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
            continue  # the survey of unreadable images names it
    return [group for group in groups.values() if len(group) > 1]


def small_classes(data: Images, part: str) -> str | None:
    """A note on classes of one image, with an example; None if there are none."""
    labels, counts = np.unique(data.labels, return_counts=True)
    alone = labels[counts == 1].tolist()
    if not alone:
        return None
    return (
        f"{len(alone)} of {len(labels)} {part} classes have one image, for example "
        f"{data.class_names[alone[0]]!r}: no other image of the class can be found"
    )


def warn(notes: Sequence[str | None]) -> None:
    """Log each note that there is."""
    for note in notes:
        if note:
            logging.warning("data: %s", note)
