"""What is on disk: the files of each data set, in every layout it comes in, with their official class ids.

Nothing is decoded here; that the images are there is looked at, not that they can be read.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
from jaxtyping import Bool, Int

from pddm_jax.data.decode import Encoded, Files
from pddm_jax.data.records import INDEX, Records, check_shards, read_index
from pddm_jax.data.tfds_store import find_store, read_store

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"}


class Source(NamedTuple):
    """Labelled images as one layout on disk has them."""

    images: Encoded
    labels: Int[np.ndarray, " n"]
    class_names: dict[int, str]
    boxes: Int[np.ndarray, "n 4"] | None  # left, top, right, bottom in pixels, half open
    in_train: Bool[np.ndarray, " n"] | None  # where what is on disk is parted itself
    layout: str


def cropped(source: Source) -> Source:
    """The images cut to their annotated boxes.

    Raises:
        ValueError: there are no boxes.
    """
    if source.boxes is None:
        raise ValueError(f"images cannot be cropped: {source.layout} holds no boxes")
    return source._replace(images=source.images.cropped(source.boxes))


# --------------------------------------------------------------------------------------------- CARS196


def find_cars196(root: str | Path) -> Source:
    """Both parts of CARS196: class ids 1 to 196 and boxes as in the devkit, whose counting starts at 1.

    Args:
        root: a folder with one of
            `car_ims/` and `cars_annos.mat`;
            `cars_train/`, `cars_test/` and, in `devkit/`, `car_devkit/devkit/` or beside them,
            `cars_train_annos.mat`, `cars_test_annos_withlabels.mat` and, for names, `cars_meta.mat`;
            `anno_train.csv`, `anno_test.csv`, `names.csv` and `{train,test}/<class>/` (Kaggle's form);
            each also within the folders that archives put around it; or with a TensorFlow Datasets store
            in array_record form; or what `prepare` made of it.

    Raises:
        FileNotFoundError: none of them is there.
        ValueError: a file is corrupt, or names an image that is missing.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "cars196")
    for base in (root, root / "stanford_cars", root / "car_data", root / "car_data" / "car_data"):
        if (base / "car_ims").is_dir() and (base / "cars_annos.mat").is_file():
            return _cars_in_one_folder(base)
        devkits = base / "devkit", base / "car_devkit" / "devkit", base
        devkit = next((folder for folder in devkits if folder.is_dir()), base)
        if (devkit / "cars_train_annos.mat").is_file():
            folders = [_innermost(base, f"cars_{part}") for part in ("train", "test")]
            if any(folder.is_dir() for folder in folders):
                return _cars_in_two_folders(base, devkit, folders)
        if (base / "anno_train.csv").is_file():
            return _cars_by_class(base)
    if store := find_store(root, "cars196"):
        return _from_store(store, first=1)
    raise nothing(
        root,
        "CARS196",
        "car_ims/ with cars_annos.mat",
        "cars_train/ and cars_test/ with devkit/cars_train_annos.mat",
        "train/ and test/ with anno_train.csv",
        "a TensorFlow Datasets store",
    )


def _cars_in_one_folder(base: Path) -> Source:
    annotations = base / "cars_annos.mat"
    content = _read_mat(annotations)
    names, labels, boxes = _cars_annotations(annotations, content, "relative_im_path")
    folder = _innermost(base, "car_ims").parent  # names begin with car_ims/
    paths = _existing([folder / name for name in names], annotations)
    return _cars_source(paths, labels, boxes, content, annotations, "car_ims/ with cars_annos.mat")


def _cars_in_two_folders(base: Path, devkit: Path, folders: list[Path]) -> Source:
    test = "cars_test_annos_withlabels.mat"  # which was published later, and may lie outside of the devkit
    files = [devkit / "cars_train_annos.mat", devkit / test if (devkit / test).is_file() else base / test]
    paths, parts = [], []
    for folder, file in zip(folders, files, strict=True):
        names, *part = _cars_annotations(file, _read_mat(file), "fname")
        paths += _existing([folder / name for name in names], file)
        parts.append(part)
    labels, boxes = (np.concatenate(x) for x in zip(*parts, strict=True))
    meta, layout = devkit / "cars_meta.mat", "cars_train/ and cars_test/ with devkit/"
    content = _read_mat(meta) if meta.is_file() else {}  # it holds no more than names
    return _cars_source(paths, labels, boxes, content, meta, layout)


def _cars_source(
    paths: list[Path],
    labels: np.ndarray,
    boxes: np.ndarray,
    content: dict[str, Any],
    names_file: Path,
    layout: str,
) -> Source:
    if "class_names" in content:
        names = [str(name) for name in np.atleast_1d(content["class_names"])]
        class_names = _named(labels, dict(enumerate(names, 1)), names_file)
    else:
        class_names = {label: f"class {label}" for label in np.unique(labels).tolist()}
    return Source(Encoded(Files(paths)), labels, class_names, boxes, None, layout)


def _read_mat(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing beside the other files of CARS196")
    try:
        return scipy.io.loadmat(path, squeeze_me=True)
    except Exception as error:  # which are of every kind where the file is corrupt
        raise ValueError(f"{path} is no MATLAB file that can be read: {error}") from error


def _cars_annotations(
    path: Path, content: dict[str, Any], name: str
) -> tuple[list[str], Int[np.ndarray, " n"], Int[np.ndarray, "n 4"]]:
    """Names, labels and boxes, these from 1-based and inclusive to 0-based and half open."""
    fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class")
    try:
        rows = np.atleast_1d(content["annotations"])
        left, top, right, bottom, labels = (rows[field].astype(np.int32) for field in fields)
        names = [str(x) for x in rows[name]]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        words = ", ".join((name, *fields))
        raise ValueError(f"{path} does not hold annotations with {words}: {error}") from error
    return names, labels, np.stack([left - 1, top - 1, right, bottom], axis=1)


def _cars_by_class(base: Path) -> Source:
    names_file = base / "names.csv"
    for file in (base / "anno_test.csv", names_file):
        if not file.is_file():
            raise ValueError(f"{file} is missing beside anno_train.csv")
    around = (base / "car_data" / "car_data", base / "car_data", base)
    folder = next((x for x in around if (x / "train").is_dir()), base)
    names = [line.strip().strip('"') for line in names_file.read_text(encoding="utf-8").splitlines()]
    paths: list[Path] = []
    rows: list[tuple[int, ...]] = []
    for part in ("train", "test"):
        annotations = base / f"anno_{part}.csv"
        table = _read_table(annotations, (str, int, int, int, int, int), ",")
        by_name = {path.name: path for path in sorted((folder / part).glob("*/*"))}
        found = [by_name.get(name, folder / part / name) for name, *_ in table]
        paths += _existing(found, annotations)
        rows += [tuple(numbers) for _, *numbers in table]
    numbers = np.array(rows, np.int32).reshape(-1, 5)
    labels = numbers[:, 4]
    class_names = _named(labels, dict(enumerate(names, 1)), names_file)
    _check_one_class_a_folder(paths, labels, base, "anno_train.csv and anno_test.csv")
    boxes = numbers[:, :4] - np.array([1, 1, 0, 0], np.int32)
    layout = "train/<class>/ and test/<class>/ with anno_train.csv, anno_test.csv and names.csv"
    return Source(Encoded(Files(paths)), labels, class_names, boxes, None, layout)


def _check_one_class_a_folder(paths: list[Path], labels: np.ndarray, base: Path, files: str) -> None:
    pairs = sorted({(path.parent.name, label) for path, label in zip(paths, labels.tolist(), strict=True)})
    for side in (0, 1):
        found = Counter(pair[side] for pair in pairs)
        if odd := [f"{folder} = {label}" for folder, label in pairs if found[(folder, label)[side]] > 1]:
            raise ValueError(f"{base}: the folders do not fit the classes of {files}: {few(odd)}")


def _innermost(base: Path, name: str) -> Path:
    return base / name / name if (base / name / name).is_dir() else base / name


# ------------------------------------------------------------------------------------------------- CUB


def find_cub200(root: str | Path) -> Source:
    """CUB-200-2011: class ids 1 to 200, and boxes.

    The files tell a box as x, y, width and height in whole pixels, written as floats. They are taken to
    count from 0: from x to x + width.

    Args:
        root: a folder with `images/`, `images.txt`, `image_class_labels.txt` and `bounding_boxes.txt`, or
            one with that folder `CUB_200_2011`; or with a TensorFlow Datasets store in array_record form;
            or what `prepare` made of it. A class has the name of its folder.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a file is corrupt, does not fit the others, or names an image that is missing.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "cub200")
    inner = Path("CUB_200_2011")
    for base in (root, root / inner, root / inner / inner):
        if (base / "images").is_dir() and (base / "images.txt").is_file():
            return _cub(base)
    if store := find_store(root, "caltech_birds2011"):
        return _from_store(store, first=0)
    files = "images/ with images.txt, also in CUB_200_2011/"
    raise nothing(root, "CUB-200-2011", files, "a TensorFlow Datasets store")


def _cub(base: Path) -> Source:
    files = [base / f"{name}.txt" for name in ("images", "image_class_labels", "bounding_boxes")]
    for file in files:
        if not file.is_file():
            raise ValueError(f"{file} is missing beside images.txt")
    kinds = (int, str), (int, int), (int, float, float, float, float)
    images, labels_of, boxes_of = (
        _by_first(_read_table(file, of_file), file) for file, of_file in zip(files, kinds, strict=True)
    )
    for file, table in zip(files[1:3], (labels_of, boxes_of), strict=True):
        if table.keys() != images.keys():
            odd = sorted(table.keys() ^ images.keys())
            raise ValueError(f"{file} and images.txt do not tell of the same images: {few(odd)}")
    paths = _existing([base / "images" / name for (name,) in images.values()], files[0])
    _by_first([(path,) for path in paths], files[0])
    labels = np.array([labels_of[image][0] for image in images], np.int32)
    _check_one_class_a_folder(paths, labels, base, "image_class_labels.txt")
    edges = np.array([boxes_of[image] for image in images], float).reshape(-1, 4)
    if not np.isfinite(edges).all():
        raise ValueError(f"{files[2]} holds a box that is not finite")
    edges[:, 2:] += edges[:, :2]
    boxes = np.concatenate([np.floor(edges[:, :2]), np.ceil(edges[:, 2:])], axis=1).astype(np.int32)
    class_names = {label: path.parent.name for label, path in zip(labels.tolist(), paths, strict=True)}
    layout = "images/ with images.txt, image_class_labels.txt and bounding_boxes.txt"
    return Source(Encoded(Files(paths)), labels, class_names, boxes, None, layout)


# ------------------------------------------------------------------------------------------------- SOP


def find_sop(root: str | Path) -> Source:
    """Stanford Online Products: class ids 1 to 22,634, each one product, and the parts of its files.

    Args:
        root: a folder with `Ebay_train.txt`, `Ebay_test.txt` and the images that they name, or one with
            that folder `Stanford_Online_Products`; or what `prepare` made of it.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a file is corrupt, or names an image that is missing.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "sop")
    for base in (root, root / "Stanford_Online_Products"):
        if (base / "Ebay_train.txt").is_file() or (base / "Ebay_test.txt").is_file():
            return _sop(base)
    files = "Ebay_train.txt and Ebay_test.txt, also in Stanford_Online_Products/"
    raise nothing(root, "Stanford Online Products", files)


def _sop(base: Path) -> Source:
    paths: list[Path] = []
    labels: list[int] = []
    in_train: list[bool] = []
    class_names: dict[int, str] = {}
    for part in ("train", "test"):
        file = base / f"Ebay_{part}.txt"
        if not file.is_file():
            raise ValueError(f"{file} is missing beside the file of the other part")
        rows = _read_table(file, (int, int, int, str), header="image_id class_id super_class_id path")
        paths += _existing([base / name for *_, name in rows], file)
        labels += [label for _, label, *_ in rows]
        in_train += [part == "train"] * len(rows)
        for _, label, _, name in rows:  # of a product nothing but the kind is known
            class_names[label] = f"{name.split('/')[0].removesuffix('_final')} {label}"
    layout = "Ebay_train.txt and Ebay_test.txt with the images that they name"
    parts = np.array(in_train, bool)
    return Source(Encoded(Files(paths)), np.array(labels, np.int32), class_names, None, parts, layout)


# ----------------------------------------------------------------------------- folders, records, stores


def find_folder(root: str | Path) -> Source:
    """Any images with a folder for each class; class ids count the names of the folders in sorted order.

    Hidden files are passed over; files of other extensions, and images outside of class folders, are
    left aside and counted in `layout`. A class folder may be a link; links to folders within one are
    passed over.

    Args:
        root: a folder with `<class>/`, or with `train/<class>/` and `test/<class>/` (or else `val/` or
            `valid/`, in upper or lower case); images may lie deeper. Or what `prepare` made of it.

    Raises:
        FileNotFoundError: there is no folder with an image in it.
        ValueError: train/ has class folders, and test/ has none.
    """
    root = Path(root).expanduser()
    if (root / INDEX).is_file():
        return find_records(root, "folder")
    parts = _parts(root)
    found = [
        (path, folder.name, part == "train")
        for part, base in parts.items()
        for folder in _folders(base)
        for path in files_in(folder)
    ]
    images = [x for x in found if x[0].suffix.lower() in EXTENSIONS]
    if not images:
        raise nothing(root, "images by class", "<class>/ with images", "train/<class>/ and test/<class>/")
    number = {name: label for label, name in enumerate(sorted({name for _, name, _ in images}))}
    labels = np.array([number[name] for _, name, _ in images], np.int32)
    in_train = np.array([part for *_, part in images], bool)
    paths = [path for path, *_ in images]
    aside = len({path for path, *_ in found}.union(files_in(root))) - len(images)
    layout = "a folder for each class" + (f" in {'/ and '.join(parts)}/" if "" not in parts else "")
    return Source(
        Encoded(Files(paths)),
        labels,
        {label: name for name, label in number.items()},
        None,
        in_train if len(parts) == 2 else None,
        layout + (f"; {aside} other files left aside" if aside else ""),
    )


def _parts(root: Path) -> dict[str, Path]:
    """The folders that hold class folders, by part; the root itself as "" where it is not parted."""
    by_name = {folder.name.lower(): folder for folder in _folders(root)}
    if "train" not in by_name or not _folders(by_name["train"]):
        return {"": root}  # a class may itself be called train: its folder holds no further ones
    tests = [name for name in ("test", "val", "valid") if name in by_name]
    test = next((name for name in tests if _folders(by_name[name])), None)
    if test or len(by_name) == 1:
        return {name: by_name[name] for name in ("train", test) if name}
    if len(by_name) == 1 + len(tests):
        raise ValueError(
            f"{by_name['train']} has a folder for each class, {by_name[tests[0]]} has none: put its images "
            "into class folders too, or move it away, and the classes of train/ are halved by seed"
        )
    return {"": root}


def _folders(base: Path) -> list[Path]:
    if not base.is_dir():
        return []
    aside = (".", "__MACOSX")  # which macOS puts into archives
    return sorted(x for x in base.iterdir() if x.is_dir() and not x.name.startswith(aside))


def files_in(folder: Path) -> Iterable[Path]:
    """All files of a folder, however deep, in order, without those that are hidden."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(x for x in folders if not x.startswith("."))
        yield from (Path(where, x) for x in sorted(files) if not x.startswith("."))


def find_records(root: Path, name: str) -> Source:
    """What `pddm_jax.data.prepare` made of a source, also the images that it left out.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: it is of another source, or its index or a shard is corrupt.
    """
    index = read_index(root)
    if index.source != name:
        raise ValueError(f"{root} holds prepared images of {index.source}, not of {name}")
    check_shards(root, index)
    left_out = None
    if index.skipped is not None:
        left_out = np.zeros(len(index.names), bool)
        left_out[index.skipped] = True
    names = np.array([name.encode() for name in index.names], bytes)
    images = Encoded(Records(root, index.shards, names), None, left_out)
    return Source(images, index.labels, index.class_names, index.boxes, index.in_train, index.layout)


def _from_store(folder: Path, first: int) -> Source:
    store, labels, names, boxes = read_store(folder, first)
    class_names = {label + 1: name for label, name in names.items()}
    return Source(Encoded(store), labels + 1, class_names, boxes, None, "a TensorFlow Datasets store")


SOURCES: dict[str, Callable[[str | Path], Source]] = {
    "cars196": find_cars196,
    "cub200": find_cub200,
    "sop": find_sop,
    "folder": find_folder,
}

# --------------------------------------------------------------------------------------- what they share


def _read_table(
    path: Path, kinds: Sequence[type], separator: str | None = None, header: str | None = None
) -> list[tuple[Any, ...]]:
    """The rows of a text file, each of one value of each kind; the last may hold the separator."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error}") from error
    if header is not None and (not lines or lines[0].split() != header.split()):
        raise ValueError(f"{path} does not begin with the line {header!r}")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (header is not None and number == 1):
            continue
        values = line.strip().split(separator, len(kinds) - 1)
        try:
            rows.append(tuple(kind(value) for kind, value in zip(kinds, values, strict=True)))
        except ValueError as error:
            words = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{path}, line {number}: {line!r} where {words} belong") from error
    return rows


def _by_first(rows: list[tuple[Any, ...]], path: Path) -> dict[Any, tuple[Any, ...]]:
    """What follows the first value of each row, by that value, which no other row has."""
    if twice := [first for first, n in Counter(row[0] for row in rows).items() if n > 1]:
        raise ValueError(f"{path} tells more than once of {few(twice)}")
    return {row[0]: row[1:] for row in rows}


def _existing(paths: list[Path], named_by: Path) -> list[Path]:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{named_by} names {len(paths)} images, of which {len(missing)} are missing: {few(missing)}"
        )
    return paths


def _named(labels: np.ndarray, names: dict[int, str], file: Path) -> dict[int, str]:
    unnamed = sorted({*labels.tolist()} - names.keys())
    if unnamed:
        raise ValueError(f"{file} does not name the classes {few(unnamed)}, of which there are images")
    return names


def few(values: Sequence[object], most: int = 3) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(str, values[:most])) + more


def nothing(root: Path, what: str, *looked_for: str) -> FileNotFoundError:
    """The error that tells what was looked for, and what is there."""
    found = "it is a file" if root.is_file() else "no such folder"
    if root.is_dir():
        inside = sorted(x.name + "/" * x.is_dir() for x in root.iterdir() if not x.name.startswith("."))
        found = f"found {few(inside, 20) or 'nothing'}"
    wanted = "; or ".join([*looked_for, f"{INDEX} of prepared images"])
    return FileNotFoundError(f"no {what} in {root}: looked for {wanted}; {found}")
