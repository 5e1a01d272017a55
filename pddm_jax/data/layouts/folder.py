"""A folder of images for each class, optionally within train/ and test/."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pddm_jax.data.layouts.base import Source, find_records, not_found_error, summarize
from pddm_jax.data.layouts.walk import (
    entries_in,
    extensions,
    folders_in,
    is_image,
    once,
    other_extensions,
    same_files,
)
from pddm_jax.data.storage.decode import Encoded, Files
from pddm_jax.data.storage.records import INDEX

SUFFIX = r"([-_ ]?(set|data|images|imgs|split))?"
PARTS = {  # names of folders that hold a part of the images, in lower case
    "train": re.compile(rf"(train|training|trn){SUFFIX}"),
    "test": re.compile(rf"(test|testing|tst){SUFFIX}"),
    "validation": re.compile(rf"(val|valid|validation|dev){SUFFIX}"),
    "retrieval": re.compile(rf"(query|queries|gallery|galleries|probe|probes){SUFFIX}"),
}


class Found(NamedTuple):
    """A file in a class folder."""

    entry: os.DirEntry[str]
    class_name: str
    in_train: bool


def find_folder(root: str | Path) -> Source:
    """Find images with a folder for each class; class ids are the positions of the sorted folder names.

    Hidden files are ignored. Files of other extensions and images outside class folders are left out and
    counted in `layout`. A class folder may be a link, but not to another class folder or to a folder around
    it; links to folders within a class folder are not followed.

    Args:
        root: a folder with `<class>/`, or with class folders in `train/` (or `training/`, `trn/`) and in
            `test/` (or `testing/`, `tst/`; or else `val/`, `valid/`, `validation/`, `dev/`), in upper or
            lower case; images may lie deeper. Or the records that `prepare` wrote.

    Raises:
        FileNotFoundError: there is no class folder with an image.
        OSError: a folder cannot be listed.
        ValueError: the folders for training and test do not match; or the classes lie a level deeper.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "folder")
    parts = find_parts(root) if root.is_dir() else {"": root}
    read, notes = _class_folders(parts)
    found = [Found(entry, folder.name, part == 0) for part, folder in read for entry in entries_in(folder)]
    images = [x for x in found if is_image(x.entry.name)]
    outside = [*entries_in(root, {str(folder) for _, folder in read})] if root.is_dir() else []
    others = [x.entry for x in found if not is_image(x.entry.name)] + outside
    notes += [other_extensions(extensions([x.name for x in others])), _unread(outside)]
    if not images:
        hints = [note for note in notes if note]
        wanted = "<class>/ with images", "train/<class>/ and test/<class>/"
        raise not_found_error(root, "images by class", *wanted, hints=hints)
    number = {name: label for label, name in enumerate(sorted({x.class_name for x in images}))}
    if len(number) == 1:
        _check_depth(root, [x.entry.path for x in images])
    empty = sorted({folder.name for _, folder in read} - number.keys())
    if empty:
        notes.append(f"{len(empty)} class folders hold no image: {summarize(empty)}")
    notes.append(same_files([x.entry for x in images]))
    layout = "a folder for each class" + (f" in {'/ and '.join(parts)}/" if "" not in parts else "")
    return Source(
        Encoded(Files([Path(x.entry.path) for x in images])),
        np.array([number[x.class_name] for x in images], np.int32),
        {label: name for name, label in number.items()},
        None,
        np.array([x.in_train for x in images], bool) if len(parts) == 2 else None,
        layout + (f"; {len(others)} other files left aside" if others else ""),
        tuple(note for note in notes if note),
    )


def find_parts(root: Path) -> dict[str, Path]:
    """The folders that hold class folders, by name in lower case; {"": root} if there are no parts.

    Raises:
        ValueError: folders have the names of parts, but cannot be used as such.
    """
    folders = folders_in(root)
    by_part = {
        part: [folder for folder in folders if pattern.fullmatch(folder.name.lower())]
        for part, pattern in PARTS.items()
    }
    count = sum(map(len, by_part.values()))
    only_parts = count == len(folders) > 1
    trains = [folder for folder in by_part["train"] if folders_in(folder)]
    if by_part["retrieval"] and (only_parts or trains):
        raise ValueError(
            f"{root} holds {_listed(folders)}: query and gallery folders are not supported: put their "
            "class folders into test/, next to train/"
        )
    if not trains:
        if not only_parts:
            return {"": root}  # a class may be called train: then its folder holds no folders
        raise ValueError(
            f"{root} holds {_listed(folders)}, which are not classes: put the training images into "
            "train/<class>/ and the test images into test/<class>/"
        )
    tests = [_with_classes(by_part[part]) for part in ("test", "validation")]
    test = tests[0] or tests[1]
    for same in (trains, test):
        if len(same) > 1:
            raise ValueError(f"{root} holds {_listed(same)}, but one is expected: remove the others")
    if not test and 1 < len(folders) == count:
        flat = next(folder for folder in folders if folder not in trains)
        raise ValueError(
            f"{flat} has no class folders, but {trains[0]} has: sort its images into {flat.name}/<class>/, "
            f"or move {flat} elsewhere to split the classes of {trains[0].name}/ at random"
        )
    if not test and len(folders) > 1:
        return {"": root}
    if test and test[0].resolve() == trains[0].resolve():
        raise ValueError(
            f"{test[0]} and {trains[0]} are the same folder (by a link): use separate images for test"
        )
    return {folder.name.lower(): folder for folder in (*trains, *test)}


def _with_classes(folders: list[Path]) -> list[Path]:
    return [folder for folder in folders if folders_in(folder)]


def _listed(folders: list[Path]) -> str:
    return " and ".join(f"{folder.name}/" for folder in folders)


def _class_folders(parts: dict[str, Path]) -> tuple[list[tuple[int, Path]], list[str | None]]:
    """The class folders with the number of their part, and notes on folders that are left out."""
    read: list[tuple[int, Path]] = []
    notes: list[str | None] = []
    for part, base in enumerate(parts.values()):
        kept, left_out = once(base, folders_in(base))
        read += [(part, folder) for folder in kept]
        notes += left_out
    return read, notes


def _unread(outside: list[os.DirEntry[str]]) -> str | None:
    """A note on images outside class folders, or in an unused part such as val/."""
    images = [x.path for x in outside if is_image(x.name)]
    if not images:
        return None
    names = summarize(images)
    return f"{len(images)} images are not read, since they are in no class folder of a part: {names}"


def _check_depth(root: Path, images: list[str]) -> None:
    """Raise a ValueError if the only class folder contains folders that look like the classes.

    Then its images lie in several folders within it, and none outside these.
    """
    around = {os.path.dirname(path) for path in images}  # noqa: PTH120
    common = os.path.commonpath(around)
    if common not in around:
        raise ValueError(
            f"data.root: all images in {root} are in folders within {common}: if these are the classes, "
            f"give data.root={common}"
        )
