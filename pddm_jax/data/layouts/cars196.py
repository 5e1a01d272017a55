"""CARS196 in its published layouts: one folder or two with MATLAB annotations, folders with CSV files."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from pddm_jax.data.layouts.base import Source, find_records, from_store, not_found_error
from pddm_jax.data.layouts.mat import read_mat
from pddm_jax.data.layouts.tables import (
    LIMIT,
    check_one_class_a_folder,
    existing,
    inner_path,
    integer,
    named,
    read_table,
)
from pddm_jax.data.storage.decode import Encoded, Files
from pddm_jax.data.storage.records import INDEX
from pddm_jax.data.storage.tfds_store import find_store
from pddm_jax.system.regular import read_lines

BOX = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
Boxes = Int[np.ndarray, "n 4"]


def find_cars196(root: str | Path) -> Source:
    """Find both parts of CARS196, with class ids 1 to 196 and boxes as in the devkit, which counts from 1.

    Args:
        root: a folder with one of
            `car_ims/` and `cars_annos.mat`;
            `cars_train/`, `cars_test/` and, in `devkit/`, `car_devkit/devkit/` or the folder itself,
            `cars_train_annos.mat`, `cars_test_annos_withlabels.mat` and, for names, `cars_meta.mat`;
            `anno_train.csv`, `anno_test.csv`, `{train,test}/<class>/` and, for names, `names.csv` (from
            Kaggle); each also within the folders that archives add; or with a TensorFlow Datasets store in
            array_record format; or the records that `prepare` wrote. Annotations may lack the boxes.

    Raises:
        FileNotFoundError: none of these layouts is found.
        ValueError: a file is corrupt, or lists an image that is missing.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "cars196")
    for base in (root, root / "stanford_cars", root / "car_data", root / "car_data" / "car_data"):
        if (base / "car_ims").is_dir() and (base / "cars_annos.mat").is_file():
            return _in_one_folder(base)
        devkits = base / "devkit", base / "car_devkit" / "devkit", base
        devkit = next((folder for folder in devkits if folder.is_dir()), base)
        if (devkit / "cars_train_annos.mat").is_file():
            folders = [_innermost(base, f"cars_{part}") for part in ("train", "test")]
            if any(folder.is_dir() for folder in folders):
                return _in_two_folders(base, devkit, folders)
        if (base / "anno_train.csv").is_file():
            return _by_class(base)
    if store := find_store(root, "cars196"):
        return from_store(store, first=1)
    raise not_found_error(
        root,
        "CARS196",
        "car_ims/ with cars_annos.mat",
        "cars_train/ and cars_test/ with devkit/cars_train_annos.mat",
        "train/ and test/ with anno_train.csv",
        "a TensorFlow Datasets store",
    )


def _in_one_folder(base: Path) -> Source:
    annotations = base / "cars_annos.mat"
    content = _read_mat(annotations, "annotations", "class_names")
    names, labels, boxes = _annotations(annotations, content, "relative_im_path")
    folder = _innermost(base, "car_ims").parent  # names begin with car_ims/
    paths = _images(folder, names, annotations)
    return _source(paths, labels, boxes, content, annotations, "car_ims/ with cars_annos.mat")


def _in_two_folders(base: Path, devkit: Path, folders: list[Path]) -> Source:
    test = "cars_test_annos_withlabels.mat"  # published later, and possibly outside the devkit
    files = [devkit / "cars_train_annos.mat", devkit / test if (devkit / test).is_file() else base / test]
    paths: list[Path] = []
    labels: list[np.ndarray] = []
    boxes: list[Boxes] = []
    for folder, file in zip(folders, files, strict=True):
        names, of_part, boxes_of_part = _annotations(file, _read_mat(file, "annotations"), "fname")
        paths += _images(folder, names, file)
        labels.append(of_part)
        boxes += [] if boxes_of_part is None else [boxes_of_part]
    all_boxes = np.concatenate(boxes) if len(boxes) == len(files) else None
    meta, layout = devkit / "cars_meta.mat", "cars_train/ and cars_test/ with devkit/"
    content = _read_mat(meta, "class_names") if meta.is_file() else {}  # it holds only names
    return _source(paths, np.concatenate(labels), all_boxes, content, meta, layout)


def _source(
    paths: list[Path],
    labels: np.ndarray,
    boxes: Boxes | None,
    content: dict[str, Any],
    names_file: Path,
    layout: str,
) -> Source:
    if boxes is None:
        layout += f", whose annotations have no {', '.join(BOX)}"
    if "class_names" in content:
        names = content["class_names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{names_file}: class_names is not a cell array of texts")
        class_names = named(labels, dict(enumerate(names, 1)), names_file)
    else:
        class_names = {label: f"class {label}" for label in np.unique(labels).tolist()}
    return Source(Encoded(Files(paths)), labels, class_names, boxes, None, layout)


def _read_mat(path: Path, *variables: str) -> dict[str, Any]:
    try:
        return read_mat(path, variables)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, but other files of CARS196 were found") from error


def _annotations(
    path: Path, content: dict[str, Any], name: str
) -> tuple[list[str], Int[np.ndarray, " n"], Boxes | None]:
    """Names, labels and boxes; boxes are converted from 1-based and inclusive to 0-based and half open."""
    table = content.get("annotations")
    if not isinstance(table, dict) or not {name, "class"} <= table.keys():
        raise ValueError(f"{path} has no annotations with the fields {name} and class")
    names = [_checked(path, row, name, value) for row, value in enumerate(table[name], 1)]
    labels = _column(path, table, "class")
    present = [field for field in BOX if field in table]
    if not present:
        return names, labels, None
    if len(present) < len(BOX):
        missing = ", ".join(field for field in BOX if field not in present)
        raise ValueError(f"{path} has annotations with {', '.join(present)}, but without {missing}")
    left, top, right, bottom = (_column(path, table, field) for field in BOX)
    return names, labels, np.stack([left - 1, top - 1, right, bottom], axis=1)


def _checked(path: Path, row: int, field: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{path}, row {row}: {field} is not a text")
    try:
        return inner_path(value)
    except ValueError as error:
        raise ValueError(f"{path}, row {row}: {field} {error}") from error


def _column(path: Path, table: dict[str, list[Any]], field: str) -> Int[np.ndarray, " n"]:
    """The integers of a field."""
    column = np.zeros(len(table[field]), np.int32)
    for row, value in enumerate(table[field]):
        number = float(value[0]) if isinstance(value, np.ndarray) and len(value) == 1 else np.nan
        if not (abs(number) < LIMIT - 1 and number == int(number)):
            raise ValueError(f"{path}, row {row + 1}: {field} is not a 32-bit integer")
        column[row] = number
    return column


def _images(folder: Path, names: list[str], file: Path) -> list[Path]:
    rows = [f"row {n}" for n in range(1, len(names) + 1)]
    return existing([folder / name for name in names], file, rows)


def _by_class(base: Path) -> Source:
    if not (base / "anno_test.csv").is_file():
        raise ValueError(f"{base / 'anno_test.csv'} is missing: it must be next to anno_train.csv")
    around = (base / "car_data" / "car_data", base / "car_data", base)
    folder = next((x for x in around if (x / "train").is_dir()), base)
    parts = [_part_by_class(base / f"anno_{part}.csv", folder / part) for part in ("train", "test")]
    paths = [path for of_part, _ in parts for path in of_part]
    numbers = [row for _, of_part in parts for row in of_part]
    labels = np.array([row[-1] for row in numbers], np.int32)
    check_one_class_a_folder(paths, labels, base, "anno_train.csv and anno_test.csv")
    names_file = base / "names.csv"
    layout = "train/<class>/ and test/<class>/ with anno_train.csv, anno_test.csv"
    if names_file.is_file():
        names = {number: line.strip('"') for number, line in read_lines(names_file)}
        class_names, layout = named(labels, names, names_file), f"{layout} and names.csv"
    else:
        class_names = {label: x.parent.name for label, x in zip(labels.tolist(), paths, strict=True)}
    boxes = None
    if all(len(row) == 1 + len(BOX) for row in numbers):
        boxes = np.array(numbers, np.int32).reshape(-1, 5)[:, :4] - np.array([1, 1, 0, 0], np.int32)
    else:
        layout += ", which have no boxes"
    return Source(Encoded(Files(paths)), labels, class_names, boxes, None, layout)


def _part_by_class(annotations: Path, folder: Path) -> tuple[list[Path], list[tuple[int, ...]]]:
    """The images of a part, and for each its box, if there are boxes, and its class."""
    lines = read_lines(annotations)
    sides = len(BOX) if not lines or lines[0][1].count(",") > 1 else 0
    table = read_table(annotations, (inner_path, *[integer] * sides, integer), ",")
    by_name: dict[str, list[Path]] = {}
    for image in sorted(folder.glob("*/*")):
        by_name.setdefault(image.name, []).append(image)
    for row in table:
        if len(found := by_name.get(row.values[0], [])) > 1:
            raise ValueError(
                f"{annotations}, line {row.line}: both {found[0]} and {found[1]} have this name"
            )
    paths = [by_name.get(row.values[0], [folder / row.values[0]])[0] for row in table]
    places = [f"line {row.line}" for row in table]
    return existing(paths, annotations, places), [row.values[1:] for row in table]


def _innermost(base: Path, name: str) -> Path:
    return base / name / name if (base / name / name).is_dir() else base / name
