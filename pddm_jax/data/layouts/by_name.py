"""Find the images of a data set by its name. Nothing is decoded: images are looked for, not read."""

from collections.abc import Callable
from pathlib import Path

from pddm_jax.data.layouts.base import Source
from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.layouts.imagenet import find_imagenet
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.system.console import errors_in_one_line

SOURCES: dict[str, Callable[[str | Path], Source]] = {
    "cars196": find_cars196,
    "cub200": find_cub200,
    "sop": find_sop,
    "folder": find_folder,
}
LISTED = ("imagenet2010", "imagenet2012", "imagenet10k", "imagenet")  # the last: of any other list
NAMES = (*SOURCES, *LISTED)


@errors_in_one_line()
def find(
    name: str,
    root: str | Path,
    classes: str | None = None,
    ground_truth: str | None = None,
    skip: bool = False,
    workers: int = 1,
) -> Source:
    """What is in a folder, as one of `NAMES`; the further arguments are those of `find_imagenet`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is corrupt, or a file was given that the data set does not have.
    """
    if name in LISTED:
        return find_imagenet(name, root, classes, ground_truth, skip, workers)
    for argument, value in (("classes", classes), ("ground_truth", ground_truth)):
        if value is not None:
            raise ValueError(f"data.{argument} is not for {name}, but for {', '.join(LISTED)}")
    return SOURCES[name](root)
