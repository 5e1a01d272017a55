"""Protocols: the training and test classes of each data set, checked against the published counts."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pddm_jax.data.closed_set import ClosedSet, split_by_mask, split_images_in_half
from pddm_jax.data.images import Images, Split, of_classes, split_half
from pddm_jax.data.layouts.base import Source
from pddm_jax.data.streams import SPLIT, stream
from pddm_jax.system.regular import read_lines


class Count(NamedTuple):
    """The numbers of classes and images of a part of a data set."""

    classes: int
    images: int


class Expected(NamedTuple):
    """The counts of a complete data set."""

    train: Count
    test: Count


EXPECTED = {
    "cars196": Expected(Count(98, 8_054), Count(98, 8_131)),
    "cub200": Expected(Count(100, 5_864), Count(100, 5_924)),
    "sop": Expected(Count(11_318, 59_551), Count(11_316, 60_502)),
}
# Published counts per release: training images, then validation or test images. All contain all classes.
IMAGENET_COUNTS = {
    "imagenet2010": [Expected(Count(1_000, 1_261_406), Count(1_000, n)) for n in (50_000, 150_000)],
    "imagenet2012": [Expected(Count(1_000, 1_281_167), Count(1_000, 50_000))],
}
IMAGENET10K_CLASSES = 10_184  # its number of images is not published
# Sizes of the classification splits (train, test), which contain all classes, to detect one of them alone.
CLASSIFICATION_SIZES = {"cars196": (8_144, 8_041), "cub200": (5_994, 5_794)}


def cars196(source: Source) -> Split:
    """CARS196: classes 1 to 98 for training (8,054 images), 99 to 196 for test (8,131).

    Raises:
        ValueError: the counts or class ids are not the published ones.
    """
    return _by_class_id("cars196", source)


def cub200(source: Source) -> Split:
    """CUB-200-2011: classes 1 to 100 for training (5,864 images), 101 to 200 for test (5,924).

    Raises:
        ValueError: the counts or class ids are not the published ones.
    """
    return _by_class_id("cub200", source)


def sop(source: Source) -> Split:
    """Stanford Online Products as its files divide it: 59,551 images of 11,318 classes, 60,502 of 11,316.

    Raises:
        ValueError: the counts or class ids are not the published ones, or a class is in both files.
    """
    train, test = _classes_by_part(source)
    shared = np.intersect1d(train, test)
    if len(shared):
        raise ValueError(f"sop: class {shared[0]} is in both Ebay_train.txt and Ebay_test.txt")
    products = np.arange(1, sum(count.classes for count in EXPECTED["sop"]) + 1)
    _check("sop", source, train, test, products)
    return _split(source, train, test, "classes of Ebay_train.txt for training, of Ebay_test.txt for test")


def folder(source: Source, seed: int) -> Split:
    """Split by train/ and test/ of the folder; if one is missing, half of the classes train, by seed.

    Raises:
        ValueError: a class is in both train/ and test/, or there is only one class.
    """
    if source.in_train is not None and len({*source.in_train.tolist()}) == 2:
        train, test = _classes_by_part(source)
        shared = [source.class_names[label] for label in np.intersect1d(train, test).tolist()]
        if shared:
            raise ValueError(
                f"data.root: {len(shared)} classes are in both train/ and test/, for example "
                f"{shared[0]!r}: keep each class in only one of them, or put all class folders directly "
                "into data.root to split the classes at random"
            )
        return _split(source, train, test, "classes of train/ for training, of test/ for test")
    if len(np.unique(source.labels)) < 2:
        names = ", ".join(source.class_names.values())
        raise ValueError(
            f"data.root: found only one class, {names!r}: training and test need at least one each"
        )
    return split_half(Images(source.images, source.labels, source.class_names), seed)


def by_class(source: Source, test_classes: str, seed: int) -> Split:
    """A split with test classes that the caller chooses.

    Args:
        source: all images of a data set; its own division is ignored.
        test_classes: the number of test classes, drawn at random; or a file of their names, one per line.
        seed: of the random choice of test classes.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file lists an unknown class or lists a class twice, or no class is left for training
            or for testing.
    """
    data = Images(source.images, source.labels, source.class_names)
    labels = np.unique(data.labels)
    if test_classes.isdecimal():
        test = stream(seed, SPLIT).permutation(labels)[: int(test_classes)]
        choice = f"by seed {seed}"
    else:
        names = [line for _, line in read_lines(Path(test_classes).expanduser())]
        known = {data.class_names[label]: label for label in labels.tolist()}
        for name in names:
            if name not in known or names.count(name) > 1:
                problem = "has no image" if name not in known else "is listed twice"
                raise ValueError(f"data.test_classes: {name!r} of {test_classes} {problem}")
        test = np.array([known[name] for name in names], labels.dtype)
        choice = f"those of {test_classes}"
    if not 0 < len(test) < len(labels):
        raise ValueError(
            f"data.test_classes={test_classes} selects {len(test)} of {len(labels)} classes: leave at "
            "least one class for training and one for testing"
        )
    description = f"{len(test)} of {len(labels)} classes for test, {choice}; the others for training"
    return Split(of_classes(data, np.setdiff1d(labels, test)), of_classes(data, test), description)


def closed_set(source: Source, seed: int) -> ClosedSet:
    """Divide by the source's own training and test images; if one is missing, half of each class at random.

    Raises:
        ValueError: a class has test images but no training images, or a class to be divided has only one
            image.
    """
    data = Images(source.images, source.labels, source.class_names)
    if source.in_train is None or len({*source.in_train.tolist()}) < 2:
        return split_images_in_half(data, seed)
    return split_by_mask(data, source.in_train, "images parted as they are on disk")


def imagenet(name: str, source: Source, seed: int) -> ClosedSet:
    """Closed sets of ImageNet.

    ILSVRC 2010 and 2012 use the division of the release; ImageNet-10K and other class lists are divided as
    in `closed_set`. ILSVRC 2010 is tested on the validation set or the test set, whichever is on disk: the
    paper does not say which it used.

    Raises:
        ValueError: as `closed_set`; or the counts of ILSVRC, or the number of classes of ImageNet-10K, are
            not the published ones.
    """
    found = closed_set(source, seed)
    counts = Expected(*(Count(len(x.class_names), len(x.labels)) for x in (found.train, found.test)))
    if counts not in IMAGENET_COUNTS.get(name, [counts]):
        raise ValueError(
            f"{name} is incomplete: found {_words(counts)} for training and test, "
            f"expected {' or '.join(map(_words, IMAGENET_COUNTS[name]))} (read from {source.layout})"
        )
    if name == "imagenet10k" and counts.train.classes != IMAGENET10K_CLASSES:
        raise ValueError(
            f"{name} is incomplete: found {counts.train.classes:,} classes, expected "
            f"{IMAGENET10K_CLASSES:,} (read from {source.layout})"
        )
    return found


def _by_class_id(name: str, source: Source) -> Split:
    last = EXPECTED[name].train.classes
    end = last + EXPECTED[name].test.classes
    train, test = np.arange(1, last + 1), np.arange(last + 1, end + 1)
    _check(name, source, train, test, np.arange(1, end + 1))
    return _split(source, train, test, f"classes 1 to {last} for training, {last + 1} to {end} for test")


def _classes_by_part(source: Source) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    if source.in_train is None:
        raise ValueError(
            f"these images have no division into training and test ({source.layout}): prepare them again"
        )
    return np.unique(source.labels[source.in_train]), np.unique(source.labels[~source.in_train])


def _split(source: Source, train: np.ndarray, test: np.ndarray, description: str) -> Split:
    data = Images(source.images, source.labels, source.class_names)
    return Split(of_classes(data, train), of_classes(data, test), description)


def _check(name: str, source: Source, train: np.ndarray, test: np.ndarray, classes: np.ndarray) -> None:
    """Raise a ValueError with the likely cause unless class ids and counts are those of `EXPECTED`."""
    foreign = np.setdiff1d(source.labels, classes)
    if len(foreign):
        raise ValueError(
            f"{name}: class id {foreign[0]} is outside {classes[0]} to {classes[-1]} "
            f"(read from {source.layout})"
        )
    found = Expected(*(_count(source.labels, classes) for classes in (train, test)))
    if found != EXPECTED[name]:
        raise ValueError(
            f"{name} is incomplete: found {_words(found)} for training and test, "
            f"expected {_words(EXPECTED[name])}; {_cause(name, source, classes)} "
            f"(read from {source.layout})"
        )


def _count(labels: np.ndarray, classes: np.ndarray) -> Count:
    chosen = labels[np.isin(labels, classes)]
    return Count(len(np.unique(chosen)), len(chosen))


def _words(counts: Expected) -> str:
    return " and ".join(f"{count.images:,} images ({count.classes:,} classes)" for count in counts)


def _cause(name: str, source: Source, classes: np.ndarray) -> str:
    total = len(source.labels)
    if total in CLASSIFICATION_SIZES.get(name, ()):
        return f"{total:,} images are one part of the split for classification: add the other"
    missing = np.setdiff1d(classes, source.labels)
    if len(missing):
        ids = ", ".join(map(str, missing[:5].tolist()))
        return f"{len(missing)} classes have no image, for example {ids}: is a folder missing?"
    present, counts = np.unique(source.labels, return_counts=True)
    least = sorted(zip(counts.tolist(), present.tolist(), strict=True))[:3]
    smallest = ", ".join(f"{label} ({count})" for count, label in least)
    return f"{total:,} images in all; the classes with the fewest are {smallest}"
