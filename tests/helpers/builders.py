"""Small data sets on disk, built with a row for each image, and the rows of what is read from them."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io
from PIL import Image

from pddm_jax.data import protocols
from pddm_jax.data.layouts.base import Source
from pddm_jax.data.load import FINDERS
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.protocols import Count, Expected
from pddm_jax.data.storage.decode import Encoded, Files

WIDTH, HEIGHT = 24, 18
SMALL = {  # what the trees below hold: classes 1 to 2 or 3 for training, then two for test
    "cars196": Expected(Count(2, 5), Count(2, 6)),
    "cub200": Expected(Count(2, 6), Count(2, 6)),
    "sop": Expected(Count(3, 6), Count(2, 4)),
}


class Row(NamedTuple):
    """One image of a tree, as the tree's maker knows it."""

    path: Path
    label: int
    box: tuple[int, int, int, int] | None = None
    in_train: bool | None = None


def pixels(seed, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


CARS = [(1, "A C/V 1999"), (2, "B Coupe 2000"), (3, "C"), (4, "D")]
CARS_LABELS = {"train": [2, 1, 4, 3, 3], "test": [1, 2, 2, 4, 3, 4]}


def cars_boxes(part):
    """1-based and inclusive, as in the devkit: left, top, right, bottom."""
    return [(1 + n, 2 + n, 11 + n, 12 + n) for n in range(len(CARS_LABELS[part]))]


def annotations(**columns):
    """What MATLAB's struct arrays look like to SciPy."""
    length = len(next(iter(columns.values())))
    table = np.zeros((1, length), dtype=[(name, "O") for name in columns])
    for n in range(length):
        table[0, n] = tuple(
            x if isinstance(x, str) else np.array([[x]], np.uint16)
            for x in (values[n] for values in columns.values())
        )
    return table


def cars_columns(part, **names):
    sides = zip(*cars_boxes(part), strict=True)
    boxes = dict(zip(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), sides, strict=True))
    return boxes | {"class": CARS_LABELS[part]} | names


def class_names():
    names = np.zeros((1, 4), "O")
    names[0] = [name for _, name in CARS]
    return names


def cars_rows(paths):
    for part, files in paths.items():
        for path, label, (left, top, right, bottom) in zip(
            files, CARS_LABELS[part], cars_boxes(part), strict=True
        ):
            picture(path, len(path.name) + label)
            yield Row(path, label, (left - 1, top - 1, right, bottom))


def one_folder(root, nested=""):
    numbers = iter(range(1, 12))
    paths = {part: [f"car_ims/{next(numbers):06d}.jpg" for _ in x] for part, x in CARS_LABELS.items()}
    columns = {part: cars_columns(part, relative_im_path=names) for part, names in paths.items()}
    both = {name: [*columns["train"][name], *columns["test"][name]] for name in columns["train"]}
    rows = [*cars_rows({part: [root / nested / name for name in names] for part, names in paths.items()})]
    table = annotations(**both, test=[0] * 5 + [1] * 6)
    scipy.io.savemat(root / "cars_annos.mat", {"annotations": table, "class_names": class_names()})
    return rows


def two_folders(root, nested="", test="devkit/cars_test_annos_withlabels.mat"):
    (root / "devkit").mkdir(parents=True)
    rows = []
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", test)):
        names = [f"{n:05d}.jpg" for n in range(1, len(CARS_LABELS[part]) + 1)]
        folder = root / f"cars_{part}" / nested.format(part)
        rows += cars_rows({part: [folder / name for name in names]})
        scipy.io.savemat(root / file, {"annotations": annotations(**cars_columns(part, fname=names))})
    scipy.io.savemat(root / "devkit" / "cars_meta.mat", {"class_names": class_names()})
    return rows


def kaggle(root, inner="car_data/car_data"):
    root.mkdir(exist_ok=True)
    # In sorted order of names the folders are not in the order of the devkit.
    names = {1: "Z 1", 2: "B Coupe 2000", 3: "A C-V", 4: "D"}
    rows = []
    for part, labels in CARS_LABELS.items():
        files = [f"{n:05d}.jpg" for n in range(1, len(labels) + 1)]
        paths = [root / inner / part / names[label] / f for label, f in zip(labels, files, strict=True)]
        rows += cars_rows({part: paths})
        table = zip(files, cars_boxes(part), labels, strict=True)
        lines = [f"{file},{','.join(map(str, box))},{label}\n" for file, box, label in table]
        (root / f"anno_{part}.csv").write_text("".join(lines))
    (root / "names.csv").write_text(
        "".join(f'"{name}"\n' if "/" in name else f"{name}\n" for _, name in CARS)
    )
    return rows


def birds(root):
    names = {1: "001.Black_Auk", 2: "002.Big Jay", 3: "003.Tit", 4: "004.Kea"}
    labels = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    files = [f"{names[label]}/{names[label][4:]}_{n:04d}.jpg" for n, label in enumerate(labels)]
    rows = []
    for n, (file, label) in enumerate(zip(files, labels, strict=True)):
        picture(root / "images" / file, n)
        rows.append(Row(root / "images" / file, label, (n, 2, n + 10, 2 + 7)))
    (root / "images.txt").write_text("".join(f"{n} {file}\n" for n, file in enumerate(files, 7)))
    # In other orders: the numbers of the images tie the files together.
    lines = [f"{n} {label}\n" for n, label in enumerate(labels, 7)]
    (root / "image_class_labels.txt").write_text("".join(reversed(lines)))
    boxes = "".join(f"{n + 7} {n}.5 2.0 9.25 7.0\n" for n in range(12))  # a box takes in its fractions
    (root / "bounding_boxes.txt").write_text(boxes)
    (root / "train_test_split.txt").write_text("".join(f"{n} {n % 2}\n" for n in range(7, 19)))
    (root / "classes.txt").write_text("".join(f"{label} {name}\n" for label, name in names.items()))
    return rows


def products(root):
    rows = []
    for part, labels in (("train", [1, 1, 2, 2, 3, 3]), ("test", [4, 4, 5, 5])):
        lines = ["image_id class_id super_class_id path"]
        for n, label in enumerate(labels):
            name = f"{'bicycle' if label % 2 else 'chair'}_final/1110{label}_{n}.JPG"
            picture(root / name, 10 * label + n)
            rows.append(Row(root / name, label, None, part == "train"))
            lines.append(f"{len(rows)} {label} {2 - label % 2} {name}")
        (root / f"Ebay_{part}.txt").write_text("\n".join(lines) + "\n")
    return rows


LAYOUTS = {
    "car_ims": ("cars196", one_folder),
    "stanford_cars/car_ims": ("cars196", lambda root: one_folder(root / "stanford_cars")),
    "car_ims/car_ims": ("cars196", lambda root: one_folder(root, "car_ims")),
    "cars_train": ("cars196", two_folders),
    "cars_train/cars_train": ("cars196", lambda root: two_folders(root, "cars_{}")),
    "labels beside devkit": (
        "cars196",
        lambda root: two_folders(root, "", "cars_test_annos_withlabels.mat"),
    ),
    "kaggle": ("cars196", kaggle),
    "kaggle, one level": ("cars196", lambda root: kaggle(root, "car_data")),
    "kaggle, no levels": ("cars196", lambda root: kaggle(root, "")),
    "cub": ("cub200", birds),
    "CUB_200_2011": ("cub200", lambda root: birds(root / "CUB_200_2011")),
    "sop": ("sop", products),
    "Stanford_Online_Products": ("sop", lambda root: products(root / "Stanford_Online_Products")),
}
PROTOCOLS = {"cars196": protocols.cars196, "cub200": protocols.cub200, "sop": protocols.sop}


def rows_of(source):
    """The rows that a source tells of."""
    boxes = [None] * len(source.labels) if source.boxes is None else map(tuple, source.boxes.tolist())
    in_train = [None] * len(source.labels) if source.in_train is None else source.in_train.tolist()
    paths = [Path(source.images.name(n)) for n in range(len(source.images))]
    return [Row(*row) for row in zip(paths, source.labels.tolist(), boxes, in_train, strict=True)]


def contents(images):
    return [images.read(n) for n in range(len(images))]


def labelled(labels, in_train=None):
    labels = np.array(labels, np.int32)
    names = {label: f"class {label}" for label in labels.tolist()}
    images = Encoded(Files([Path("none.jpg")] * len(labels)))
    in_train = None if in_train is None else np.array(in_train)
    return Source(images, labels, names, None, in_train, "lists in a test")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def prepared(name, root, out, shard_images=4, skip=False):
    return prepare(name, FINDERS[name](root), root, out, shard_images, skip)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_source(found, expected):
    for field in ("labels", "boxes", "in_train"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    assert (found.class_names, found.layout) == (expected.class_names, expected.layout)
    assert contents(found.images) == contents(expected.images)
    for n in range(len(expected.images)):
        np.testing.assert_array_equal(found.images[n], expected.images[n])


def write_images(root, *names):
    """Images of these names, each of its own pixels."""
    for n, name in enumerate(names):
        picture(root / name, n)
    return root


def one_line(error):
    assert "\n" not in str(error)
    return str(error)


def changed(line, new):
    """Replace a line, counted from 1."""

    def change(path):
        lines = path.read_text().splitlines()
        lines[line - 1] = new(lines[line - 1])
        path.write_text("\n".join(lines))

    return change
