"""The check of encoded images: which can be decoded, and which have the same bytes as others."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from absl import logging

from pddm_jax.data.closed_set import ClosedSet
from pddm_jax.data.images import Images, Split, subset
from pddm_jax.data.notes import same_bytes, warn
from pddm_jax.data.storage.decode import Encoded, LeftOut, Survey, survey

SplitOrClosedSet = TypeVar("SplitOrClosedSet", Split, ClosedSet)


def readable(split: SplitOrClosedSet, skip: bool) -> SplitOrClosedSet:
    """The images that can be read; a ValueError that names those that cannot, unless they are skipped.

    What was skipped when records were written stays so. Images of the same bytes in several classes, or in
    both parts, are reported.
    """
    parts = split.train, split.test
    images = [part.images for part in parts if isinstance(part.images, Encoded)]
    surveys = [survey(of_part) for of_part in images]
    errors = [error for of_part in surveys for error in of_part.errors.values()]
    bad = [str(error) for error in errors if not isinstance(error, LeftOut)]
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
    told = f"; {len(errors)} unreadable images left out" if errors else ""
    return split._replace(train=train, test=test, description=split.description + told)


def _equal_images(
    split: Split | ClosedSet, images: Sequence[Encoded], surveys: Sequence[Survey]
) -> str | None:
    """A line on images of the same bytes; the test images are numbered after those for training."""
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


def _without(data: Images, numbers: list[int]) -> Images:
    """All images but those of some numbers, and the classes that these leave."""
    return subset(data, np.setdiff1d(np.arange(len(data.labels)), numbers)) if numbers else data
