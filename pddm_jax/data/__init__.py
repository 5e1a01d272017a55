"""From what is on disk to batches.

`load` a split of disjoint classes, or `load_closed_set` of the same classes; `train_batches` of it.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from absl import logging

from pddm_jax.checks import check_choice
from pddm_jax.data import closed_set, fashion_mnist, glyphs, protocols
from pddm_jax.data.closed_set import ClosedSet, drawn
from pddm_jax.data.images import Images, Split, hold_out, some
from pddm_jax.data.layouts import by_name
from pddm_jax.data.layouts.base import Source, cropped
from pddm_jax.data.notes import same_bytes, small_classes
from pddm_jax.data.pipeline import ordered_batches, train_batches
from pddm_jax.data.sampler import PKSampler
from pddm_jax.data.storage.decode import Encoded, LeftOut, Survey, survey
from pddm_jax.data.storage.rgb import MAX_PIXELS
from pddm_jax.data.transforms import make_transform
from pddm_jax.system.console import errors_in_one_line

__all__ = [
    "CLOSED_SETS",
    "DATASETS",
    "ClosedSet",
    "Images",
    "PKSampler",
    "Split",
    "drawn",
    "hold_out",
    "load",
    "load_closed_set",
    "make_transform",
    "ordered_batches",
    "some",
    "train_batches",
]

IN_MEMORY = {"glyphs": glyphs.load, "fashion_mnist": fashion_mnist.load}

PROTOCOLS: dict[str, Callable[[Source, int], Split]] = {
    "cars196": lambda source, seed: protocols.cars196(source),
    "cub200": lambda source, seed: protocols.cub200(source),
    "sop": lambda source, seed: protocols.sop(source),
    "folder": protocols.folder,
}

DATASETS = (*IN_MEMORY, *PROTOCOLS)
CLOSED_SETS = ("glyphs", "folder", *by_name.LISTED)

Parts = TypeVar("Parts", Split, ClosedSet)


@errors_in_one_line()
def load(
    name: str,
    root: str | None,
    image_size: int | None,
    seed: int,
    crop: str = "none",
    on_error: str = "stop",
    test_classes: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Split:
    """The data set of a name in `DATASETS`.

    Args:
        name: of the data set; with `test_classes`, one of `CLOSED_SETS` too, as `prepare` wrote it.
        root: its folder; glyphs and fashion_mnist have places of their own, see their modules.
        image_size: side in pixels of glyphs and fashion_mnist; images on disk keep their own.
        seed: of the split, where it is drawn.
        crop: "none", whole images; or "bbox", cut to the annotated boxes.
        on_error: what an image does that cannot be read: "stop", or "skip". One that was skipped when
            records were written is left out either way, and counted in the split's rule.
        test_classes: other test classes than the set's own, of images on disk: see `protocols.by_class`.
        max_pixels: width times height above which an image on disk is not read.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: it is corrupt, or not the whole data set; or an argument is wrong.
    """
    check_choice("data.name", name, DATASETS if test_classes is None else (*DATASETS, *by_name.LISTED))
    check_choice("data.crop", crop, ("none", "bbox"))
    check_choice("data.on_error", on_error, ("stop", "skip"))
    if name in IN_MEMORY:
        if crop != "none":
            raise ValueError(f'data.crop must be "none" for {name}, which has no boxes')
        if test_classes is not None:
            raise ValueError(
                f"data.test_classes does not apply to {name}, which has test classes of its own"
            )
        return IN_MEMORY[name](root, image_size, seed)
    source = _limited(by_name.find(name, _given(root, name), skip=on_error == "skip"), max_pixels)
    source = cropped(source) if crop == "bbox" else source
    split = (
        protocols.by_class(source, test_classes, seed) if test_classes else PROTOCOLS[name](source, seed)
    )
    split = _readable(_told(split, source), on_error == "skip")
    _warn([small_classes(part, of) for part, of in ((split.train, "training"), (split.test, "test"))])
    return split


@errors_in_one_line()
def load_closed_set(
    name: str,
    root: str | None,
    image_size: int | None,
    seed: int,
    on_error: str = "stop",
    classes: str | None = None,
    ground_truth: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> ClosedSet:
    """The data set of a name in `CLOSED_SETS`, with images of the same classes for training and for test.

    Of glyphs the characters that `load` keeps for test, each in half of its typefaces for training; of a
    folder or of ImageNet its own parts, or where it has not both, half of the images of each class.

    Args:
        name: of the data set.
        root: its folder; glyphs have a place of their own.
        image_size: side in pixels of glyphs; images on disk keep their own.
        seed: of the halves, and of the characters.
        on_error: what an image does that cannot be read, as for `load`.
        classes: file of WordNet ids, for ImageNet that was not prepared: see `imagenet.find_imagenet`.
        ground_truth: likewise of the classes of numbered test images.
        max_pixels: as for `load`.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: it is corrupt, or a class has no images for training; or an argument is wrong.
    """
    check_choice("data.name", name, CLOSED_SETS)
    check_choice("data.on_error", on_error, ("stop", "skip"))
    if name == "glyphs":
        split = glyphs.load(root, image_size, seed)
        found = closed_set.halves(split.test, seed)
        return found._replace(rule=f"the other {split.rule}; of these {found.rule}")
    skip = on_error == "skip"
    source = by_name.find(name, _given(root, name), classes, ground_truth, skip)
    source = _limited(source, max_pixels)
    found = protocols.imagenet(name, source, seed)
    return closed_set.checked(_readable(_told(found, source), skip))


def _given(root: str | None, name: str) -> str:
    if root is None:
        raise ValueError(f"data.root must be given for {name}: the folder that holds the images")
    return root


def _limited(source: Source, max_pixels: int) -> Source:
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"data.max_pixels must be a whole number above 0, got {max_pixels!r}")
    return source._replace(images=source.images.limited(max_pixels))


def _warn(notes: Sequence[str | None]) -> None:
    for note in notes:
        if note:
            logging.warning("data: %s", note)


def _told(parts: Parts, source: Source) -> Parts:
    _warn(source.notes)
    return parts._replace(rule=f"{parts.rule}; read from {source.layout}")


def _readable(split: Parts, skip: bool) -> Parts:
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
    _warn([_equal_images(split, images, surveys)])
    train, test = (
        _without(part, list(of_part.errors)) for part, of_part in zip(parts, surveys, strict=True)
    )
    told = f"; {len(errors)} unreadable images left out" if errors else ""
    return split._replace(train=train, test=test, rule=split.rule + told)


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
    return some(data, np.setdiff1d(np.arange(len(data.labels)), numbers)) if numbers else data
