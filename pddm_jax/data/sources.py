"""What is on disk: the files of each data set, in every layout it comes in, with their official class ids.

Nothing is decoded here; that the images are there is looked at, not that they can be read.
"""

from collections.abc import Callable
from pathlib import Path

from pddm_jax.data.layouts.base import Source, cropped, find_records
from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.layouts.sop import find_sop

__all__ = [
    "SOURCES",
    "Source",
    "cropped",
    "find_cars196",
    "find_cub200",
    "find_folder",
    "find_records",
    "find_sop",
]

SOURCES: dict[str, Callable[[str | Path], Source]] = {
    "cars196": find_cars196,
    "cub200": find_cub200,
    "sop": find_sop,
    "folder": find_folder,
}
