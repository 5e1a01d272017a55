"""ImageNet in the layouts of its releases: images by WordNet id, in packed tars or in folders."""

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pddm_jax.data.layouts.base import Source, find_records, not_found_error, summarize
from pddm_jax.data.layouts.walk import entries_in, extensions, is_image, once, other_extensions
from pddm_jax.data.layouts.wnids import WNID, read_ground_truth, read_wnids
from pddm_jax.data.storage.decode import Encoded
from pddm_jax.data.storage.records import INDEX
from pddm_jax.data.storage.tars import WHOLE, Member, Place, Stretches, members, shown
from pddm_jax.system.processes import in_processes


class Release(NamedTuple):
    """A list of classes, and the folder or tar that holds the images of each; none is read yet."""

    wnids: list[str]  # class n is the n-th of them, from 1
    train: dict[str, Place]  # by WordNet id, one for each
    test: dict[str, Place]  # likewise, for those that have one; empty where test images are numbered
    numbered: Place | None  # the numbered test images
    truth: Int[np.ndarray, " n"]  # their classes, image 1 first
    unlisted: list[str]  # WordNet ids on disk that are left out, since they are not in the list
    test_part: Path | None  # the folder or tar of all test images


class PlaceFiles(NamedTuple):
    """The image files of one folder or tar, sorted by name."""

    names: Shaped[np.ndarray, " n"]
    offsets: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, " n"]
    others: Counter[str]  # files that are not images, by extension


def find_imagenet(
    name: str,
    root: str | Path,
    classes: str | Path | None,
    ground_truth: str | Path | None,
    skip: bool = False,
    workers: int = 1,
) -> Source:
    """Find images by WordNet id; class n, from 1, is the n-th id of the list and has the id as its name.

    Args:
        name: of the data set.
        root: a folder with training images: in `train/`, in one tar `*train*.tar`, or else in the folder
            itself; and optionally with test images: in `val/` or one tar `*val*.tar`, or else in `test/` or
            `*test*.tar`. Each holds a tar `n01440764.tar` or a folder `n01440764/` for every id; or, for
            test, numbered images (`ILSVRC2010_val_00000001.JPEG`). Or that tar itself; or the records that
            `prepare` wrote, for which neither of the two files is needed.
        classes: file of WordNet ids, one on each line, in the order of the ground truth's numbers.
        ground_truth: file of the classes of numbered test images, one on each line.
        skip: leave out the ids that are not in the list, and count them.
        workers: processes that list the contents of tars.

    Raises:
        FileNotFoundError: there are no such images, or a file is missing.
        ValueError: an id has no images, or is not in the list; a tar is truncated, or a member leads out of
            it; images and ground truth do not match.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, name)
    train, test = _part(root, "train") or root, _part(root, "val") or _part(root, "test")
    if test and test.resolve() == train.resolve():
        raise ValueError(f"{test} is a link to the training images: give test images of their own")
    by_id = _by_id(train)
    if not by_id:
        wanted = "n01440764.tar or n01440764/ for each WordNet id, also in train/ or in one tar *train*.tar"
        raise not_found_error(root, f"images of {name}", wanted)
    if classes is None:
        raise ValueError(f"data.classes must be given for {name}: the file that lists its WordNet ids")
    wnids = read_wnids(Path(classes).expanduser())
    if missing := [wnid for wnid in wnids if wnid not in by_id]:
        ids = summarize(missing)
        raise ValueError(f"{classes} lists {ids}, but {train} has neither a tar nor a folder for them")
    test_by_id = _by_id(test) if test else {}
    unlisted = sorted({*by_id, *test_by_id} - {*wnids})
    if unlisted and not skip:
        ids = summarize(unlisted)
        raise ValueError(f"{root} holds {ids}, not listed in {classes} (on_error=skip leaves it out)")
    numbered = Place(test) if test and not test_by_id else None
    truth = _ground_truth(ground_truth, root, numbered, len(wnids))
    return _source(Release(wnids, by_id, test_by_id, numbered, truth, unlisted, test), workers)


def _source(release: Release, workers: int) -> Source:
    """The images of a release: for training by class, then for test by class, or by name where numbered."""
    wnids, numbered, truth = release.wnids, release.numbered, release.truth
    parts = release.train, release.test
    pairs = [(n, part[wnid]) for part in parts for n, wnid in enumerate(wnids, 1) if wnid in part]
    places = [place for _, place in pairs] + ([numbered] if numbered else [])
    listed = [*in_processes(_image_files, places, workers)]
    for place, files in zip(places, listed, strict=True):
        if not len(files.names):
            raise ValueError(f"{place} holds no image")
    of = np.repeat(np.arange(len(places), dtype=np.int32), [len(files.names) for files in listed])
    labels = np.array([label for label, _ in pairs] + ([0] if numbered else []), np.int32)[of]
    if numbered:
        labels[of == len(pairs)] = truth[_numbers(numbered, listed[-1].names, len(truth)) - 1]
    names, offsets, sizes = (np.concatenate(x) for x in zip(*(files[:3] for files in listed), strict=True))
    others = sum((files.others for files in listed), Counter[str]())
    note = other_extensions(others)
    return Source(
        Encoded(Stretches(places, of, offsets, sizes, names)),
        labels,
        dict(enumerate(wnids, 1)),
        boxes=None,
        in_train=of < len(wnids) if release.test_part else None,
        layout=_layout(release, places[0].path.is_dir(), others.total()),
        notes=(note,) if note else (),
    )


def _layout(release: Release, in_folders: bool, others: int) -> str:
    """The layout in words, as indexes of prepared images and results of runs hold it."""
    layout = f"images by WordNet id in {'folders' if in_folders else 'tars'}"
    if release.test_part:
        kind = "numbered" if release.numbered else "too"
        layout += f", those for test {kind}, in {release.test_part.name}"
    if release.unlisted:
        layout += f"; {len(release.unlisted)} classes that are not listed left aside"
    return layout + (f"; {others} other files left aside" if others else "")


def _part(root: Path, name: str) -> Path | None:
    """The folder of a part, or the one tar that has the part in its name."""
    if (root / name).is_dir():
        return root / name
    tars = sorted(path for path in root.glob("*.tar") if name in path.name.lower())
    if len(tars) > 1:
        raise ValueError(
            f"{root} holds {summarize([x.name for x in tars])}, but one tar is expected for {name}: remove "
            "the others"
        )
    return tars[0] if tars else None


def _by_id(part: Path) -> dict[str, Place]:
    """The tar or folder of each WordNet id in a folder or a tar of tars; empty for numbered images."""
    places: dict[str, Place] = {}

    def add(name: str, place: Place) -> None:
        if name in places:
            raise ValueError(f"{part} holds {name} twice: as {places[name]} and as {place}")
        places[name] = place

    if part.is_dir():
        paths = sorted(part.iterdir())
        folders = {path for path in paths if WNID.fullmatch(path.name) and path.is_dir()}
        if doubled := once(part, sorted(folders))[1]:
            raise ValueError(f"{doubled[0]}: remove the link")
        for path in paths:
            if path in folders:
                add(path.name, Place(path))
            elif path.suffix == ".tar" and WNID.fullmatch(path.stem):
                add(path.stem, Place(path))
    elif part.is_file():
        for member in members(Place(part)):
            inner = PurePosixPath(member.name)
            if inner.suffix == ".tar" and WNID.fullmatch(inner.stem):
                add(inner.stem, Place(part, inner.name, member.offset, member.offset + member.size))
            elif is_image(inner.name):
                break
    return places


def _image_files(place: Place) -> PlaceFiles:
    """The image files of a tar or folder."""
    if place.path.is_dir():
        paths = (entry.path.removeprefix(f"{place.path}/") for entry in entries_in(place.path))
        entries = [Member(path, WHOLE, WHOLE) for path in paths]
    else:
        entries = [*members(place)]
    by_name: dict[str, Member] = {}
    for entry in entries:
        path = PurePosixPath(entry.name)
        if not is_image(path.name):
            continue
        if path.name in by_name:
            raise ValueError(f"{place} holds {path.name!r} twice")
        by_name[path.name] = entry
    images = [by_name[name] for name in sorted(by_name, key=os.fsencode)]
    return PlaceFiles(
        np.array([os.fsencode(image.name) for image in images], bytes),
        np.array([image.offset for image in images], np.int64),
        np.array([image.size for image in images], np.int64),
        extensions(entry.name for entry in entries),
    )


def _ground_truth(
    path: str | Path | None, root: Path, numbered: Place | None, classes: int
) -> Int[np.ndarray, " n"]:
    if numbered and path is None:
        raise ValueError(f"data.ground_truth must be given for {numbered}: the file of its images' classes")
    if path is None:
        return np.zeros(0, np.int32)
    if not numbered:
        raise ValueError(f"data.ground_truth is for numbered test images, but {root} holds none")
    return read_ground_truth(Path(path).expanduser(), classes)


def _numbers(place: Place, names: Shaped[np.ndarray, " n"], count: int) -> Int[np.ndarray, " n"]:
    """The numbers at the end of image names, which must be 1 to `count` in any order."""
    found = [re.search(rb"(\d{1,9})\.\w+$", name) for name in names.tolist()]
    if None in found:
        raise ValueError(f"{place}/{shown(names[found.index(None)])} has no number at the end of its name")
    numbers = np.array([int(match[1]) for match in found if match])
    wanted = np.arange(1, count + 1)
    odd = [*np.setdiff1d(wanted, numbers).tolist(), *np.setdiff1d(numbers, wanted).tolist()]
    if odd or len(numbers) != count:
        raise ValueError(
            f"{place} holds {len(numbers)} images, but the ground truth has {count}"
            + (f"; numbers in only one of them: {summarize(odd)}" if odd else "; some have the same number")
        )
    return numbers
