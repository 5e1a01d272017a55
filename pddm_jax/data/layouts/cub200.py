"""CUB-200-2011: images, labels and boxes in text files."""

from pathlib import Path

import numpy as np

from pddm_jax.data.layouts.base import Source, find_records, from_store, not_found_error, summarize
from pddm_jax.data.layouts.tables import (
    LIMIT,
    by_first,
    check_one_class_a_folder,
    existing,
    inner_path,
    integer,
    read_table,
    real,
)
from pddm_jax.data.storage.decode import Encoded, Files
from pddm_jax.data.storage.records import INDEX
from pddm_jax.data.storage.tfds_store import find_store


def find_cub200(root: str | Path) -> Source:
    """Find CUB-200-2011, with class ids 1 to 200 and boxes.

    The files give a box as x, y, width and height in whole pixels, written as floats. Pixels are taken to
    count from 0: a box is from x to x + width.

    Args:
        root: a folder with `images/`, `images.txt`, `image_class_labels.txt` and `bounding_boxes.txt`, or
            one with that folder `CUB_200_2011`; or with a TensorFlow Datasets store in array_record format;
            or the records that `prepare` wrote. A class has the name of its folder.

    Raises:
        FileNotFoundError: none of these layouts is found.
        ValueError: a file is corrupt, does not match the others, or lists an image that is missing.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "cub200")
    inner = Path("CUB_200_2011")
    for base in (root, root / inner, root / inner / inner):
        if (base / "images").is_dir() and (base / "images.txt").is_file():
            return _cub(base)
    if store := find_store(root, "caltech_birds2011"):
        return from_store(store, first=0)
    files = "images/ with images.txt, also in CUB_200_2011/"
    raise not_found_error(root, "CUB-200-2011", files, "a TensorFlow Datasets store")


def _cub(base: Path) -> Source:
    files = [base / f"{name}.txt" for name in ("images", "image_class_labels", "bounding_boxes")]
    if not files[1].is_file():
        raise ValueError(f"{files[1]} is missing: it must be next to images.txt")
    has_boxes = files[2].exists()  # only crop=bbox needs them
    rows = read_table(files[0], (integer, inner_path))
    images = by_first(rows, files[0])
    labels_of = by_first(read_table(files[1], (integer, integer)), files[1])
    boxes_of = by_first(read_table(files[2], (integer, *[real] * 4)), files[2]) if has_boxes else images
    for file, table in zip(files[1:], (labels_of, boxes_of), strict=True):
        if table.keys() != images.keys():
            odd = sorted(table.keys() ^ images.keys())
            raise ValueError(f"{file} and images.txt list different image ids: {summarize(odd)}")
    named = [base / "images" / row.values[1] for row in rows]
    paths = existing(named, files[0], [f"line {row.line}" for row in rows])
    labels = np.array([labels_of[image][0] for image in images], np.int32)
    check_one_class_a_folder(paths, labels, base, "image_class_labels.txt")
    class_names = {label: path.parent.name for label, path in zip(labels.tolist(), paths, strict=True)}
    if not has_boxes:
        layout = "images/ with images.txt and image_class_labels.txt, without bounding_boxes.txt"
        return Source(Encoded(Files(paths)), labels, class_names, None, None, layout)
    edges = np.array([boxes_of[image] for image in images], float).reshape(-1, 4)
    edges[:, 2:] += edges[:, :2]
    edges = np.concatenate([np.floor(edges[:, :2]), np.ceil(edges[:, 2:])], axis=1)
    boxes = edges.clip(-LIMIT, LIMIT - 1).astype(np.int32)
    layout = "images/ with images.txt, image_class_labels.txt and bounding_boxes.txt"
    return Source(Encoded(Files(paths)), labels, class_names, boxes, None, layout)
