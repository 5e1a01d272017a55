"""Data sets by name: found on disk or in memory, and loaded as a split or as a closed set."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pddm_jax.checks import check_choice
from pddm_jax.data import closed_set, fashion_mnist, glyphs, protocols
from pddm_jax.data.closed_set import ClosedSet
from pddm_jax.data.from_python import ARRAYS, PATHS
from pddm_jax.data.images import Split
from pddm_jax.data.layouts.base import Source, cropped
from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.layouts.imagenet import find_imagenet
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.data.quality import SplitOrClosedSet, readable, small_classes, warn
from pddm_jax.data.storage.rgb import MAX_PIXELS
from pddm_jax.system.console import errors_in_one_line

FINDERS: dict[str, Callable[[str | Path], Source]] = {
    "cars196": find_cars196,
    "cub200": find_cub200,
    "sop": find_sop,
    "folder": find_folder,
}
LISTED = ("imagenet2010", "imagenet2012", "imagenet10k", "imagenet")
"""Data sets whose classes a file lists; the last is any other list of WordNet ids."""

NAMES = (*FINDERS, *LISTED)
"""Data sets that are images on disk."""

IN_MEMORY = {"glyphs": glyphs.load, "fashion_mnist": fashion_mnist.load}

PROTOCOLS: dict[str, Callable[[Source, int], Split]] = {
    "cars196": lambda source, seed: protocols.cars196(source),
    "cub200": lambda source, seed: protocols.cub200(source),
    "sop": lambda source, seed: protocols.sop(source),
    "folder": protocols.folder,
}

DATASETS = (*IN_MEMORY, *PROTOCOLS)
CLOSED_SETS = ("glyphs", "folder", *LISTED)


@errors_in_one_line()
def find(
    name: str,
    root: str | Path,
    classes: str | None = None,
    ground_truth: str | None = None,
    skip: bool = False,
    workers: int = 1,
) -> Source:
    """The images in a folder, found but not read; the optional arguments are those of `find_imagenet`.

    Args:
        name: one of `NAMES`.
        root: the folder of the data set.
        classes: file of the WordNet ids.
        ground_truth: file of the classes of numbered test images.
        skip: leave out WordNet ids that are not listed.
        workers: processes that read tars.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: they are corrupt, or a file is given that the data set does not have.
    """
    if name in LISTED:
        return find_imagenet(name, root, classes, ground_truth, skip, workers)
    for argument, value in (("classes", classes), ("ground_truth", ground_truth)):
        if value is not None:
            raise ValueError(f"data.{argument} applies only to {', '.join(LISTED)}, not to {name}")
    return FINDERS[name](root)


def load_data(fields: Mapping[str, Any], *, closed_set: bool, seed: int) -> Split | ClosedSet:
    """The data set of a config: a split of disjoint classes if it has one, else a closed set.

    Args:
        fields: the config's group `data`.
        closed_set: whether the evaluation can use a closed set; if not, a data set without its own split
            needs `test_classes`.
        seed: of the split.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: they are corrupt or incomplete, or a field is wrong or does not apply.
    """
    name = fields["name"]
    if name in (ARRAYS, PATHS):
        raise ValueError(
            f"data.name {name!r} is reserved for images given from Python: choose a data set (in embed: "
            "--data and --root)"
        )
    check_choice("data.name", name, (*DATASETS, *LISTED))
    if not closed_set or name in DATASETS:
        return load(**_common(fields), crop=fields["crop"], test_classes=fields["test_classes"], seed=seed)
    if fields["crop"] != "none" or fields["test_classes"] is not None:
        raise ValueError(f"data.crop and data.test_classes do not apply to {name}, a closed set")
    return closed_set_of(fields, seed)


def closed_set_of(fields: Mapping[str, Any], seed: int) -> ClosedSet:
    """The closed set of a config's group `data`, even if its data set has a split of disjoint classes.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: they are corrupt, or the data set has no closed set; or a field is wrong.
    """
    lists = {name: fields[name] for name in ("classes", "ground_truth")}
    return load_closed_set(**_common(fields), **lists, seed=seed)


def _common(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `load` and `load_closed_set` share; configs of early versions lack max_pixels."""
    common = {name: fields[name] for name in ("name", "root", "image_size", "on_error")}
    return common | {"max_pixels": fields.get("max_pixels", MAX_PIXELS)}


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
    """Load a data set of `DATASETS` as a split of disjoint classes.

    Args:
        name: of the data set; with `test_classes` also one of `LISTED`, as `prepare` wrote it.
        root: its folder; None for the default folder of glyphs and fashion_mnist.
        image_size: side in pixels of glyphs and fashion_mnist; images on disk keep their sizes.
        seed: of the split, if it is drawn.
        crop: "none", whole images; or "bbox", cut to the annotated boxes.
        on_error: "stop" or "skip" at an image that cannot be read. An image that was skipped when records
            were written is left out either way, and counted in the description of the split.
        test_classes: test classes instead of the data set's own, for images on disk: see
            `protocols.by_class`.
        max_pixels: width times height above which an image on disk is refused.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: they are corrupt or incomplete, or an argument is wrong.
    """
    check_choice("data.name", name, DATASETS if test_classes is None else (*DATASETS, *LISTED))
    check_choice("data.crop", crop, ("none", "bbox"))
    check_choice("data.on_error", on_error, ("stop", "skip"))
    if name in IN_MEMORY:
        if crop != "none":
            raise ValueError(f'data.crop must be "none" for {name}, which has no boxes')
        if test_classes is not None:
            raise ValueError(f"data.test_classes does not apply to {name}, which has its own test classes")
        return IN_MEMORY[name](root, image_size, seed)
    source = _limited(find(name, _given(root, name), skip=on_error == "skip"), max_pixels)
    source = cropped(source) if crop == "bbox" else source
    split = (
        protocols.by_class(source, test_classes, seed) if test_classes else PROTOCOLS[name](source, seed)
    )
    split = readable(_with_layout(split, source), on_error == "skip")
    warn([small_classes(part, of) for part, of in ((split.train, "training"), (split.test, "test"))])
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
    """Load a data set of `CLOSED_SETS` with training and test images of the same classes.

    Glyphs: the test characters of `load`, with half of the typefaces of each for training. A folder or
    ImageNet: its own parts; if it lacks one of them, half of the images of each class.

    Args:
        name: of the data set.
        root: its folder; None for the default folder of glyphs.
        image_size: side in pixels of glyphs; images on disk keep their sizes.
        seed: of the random halves, and of the characters.
        on_error: as for `load`.
        classes: file of WordNet ids, for ImageNet that was not prepared: see `find_imagenet`.
        ground_truth: file of the classes of numbered test images, likewise.
        max_pixels: as for `load`.

    Raises:
        FileNotFoundError: there are no such images.
        ValueError: they are corrupt, or a class has no training image; or an argument is wrong.
    """
    check_choice("data.name", name, CLOSED_SETS)
    check_choice("data.on_error", on_error, ("stop", "skip"))
    if name == "glyphs":
        split = glyphs.load(root, image_size, seed)
        found = closed_set.split_images_in_half(split.test, seed)
        return found._replace(description=f"the other {split.description}; of these {found.description}")
    skip = on_error == "skip"
    source = find(name, _given(root, name), classes, ground_truth, skip)
    source = _limited(source, max_pixels)
    found = protocols.imagenet(name, source, seed)
    return closed_set.checked(readable(_with_layout(found, source), skip))


def _given(root: str | None, name: str) -> str:
    if root is None:
        raise ValueError(f"data.root must be given for {name}: the folder that holds the images")
    return root


def _limited(source: Source, max_pixels: int) -> Source:
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"data.max_pixels must be a positive integer, got {max_pixels!r}")
    return source._replace(images=source.images.limited(max_pixels))


def _with_layout(split: SplitOrClosedSet, source: Source) -> SplitOrClosedSet:
    warn(source.notes)
    return split._replace(description=f"{split.description}; read from {source.layout}")
