"""What is on disk: layouts, protocols, decoding, and ArrayRecord shards."""

import io
import os
import pickle
import resource
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pddm_jax.data import load, protocols
from pddm_jax.data.layouts.base import Source, cropped, find_records
from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.data.load import FINDERS
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.protocols import Count, Expected
from pddm_jax.data.storage import records
from pddm_jax.data.storage.decode import Encoded, Files, LeftOut, check, decode

# ----------------------------------------------------------------------------- small trees of each layout

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


@pytest.fixture(scope="session", params=LAYOUTS)
def tree(request, tmp_path_factory):
    """The data set's name, the folder, and what is in it."""
    root = tmp_path_factory.mktemp("tree")
    name, make = LAYOUTS[request.param]
    return name, root, make(root)


@pytest.fixture
def small(monkeypatch):
    for name, counts in SMALL.items():
        monkeypatch.setitem(protocols.EXPECTED, name, counts)


def rows_of(source):
    """The rows that a source tells of."""
    boxes = [None] * len(source.labels) if source.boxes is None else map(tuple, source.boxes.tolist())
    in_train = [None] * len(source.labels) if source.in_train is None else source.in_train.tolist()
    paths = [Path(source.images.name(n)) for n in range(len(source.images))]
    return [Row(*row) for row in zip(paths, source.labels.tolist(), boxes, in_train, strict=True)]


def contents(images):
    return [images.read(n) for n in range(len(images))]


# ---------------------------------------------------------------------------------------------- layouts


def test_each_layout_is_read_with_its_own_ids_and_boxes(tree):
    name, root, rows = tree
    source = FINDERS[name](str(root))
    assert sorted(rows_of(source)) == sorted(rows)
    assert source.labels.dtype == np.int32
    assert contents(source.images) == [row.path.read_bytes() for row in rows_of(source)]
    for n, row in enumerate(rows_of(source)):
        with Image.open(row.path) as image:
            np.testing.assert_array_equal(source.images[n], np.asarray(image))


@pytest.mark.parametrize(
    ("find", "make", "names"),
    [
        (find_cars196, one_folder, dict(CARS)),
        (find_cars196, two_folders, dict(CARS)),
        (find_cars196, kaggle, dict(CARS)),
        (find_cub200, birds, {1: "001.Black_Auk", 2: "002.Big Jay", 3: "003.Tit", 4: "004.Kea"}),
        (find_sop, products, {1: "bicycle 1", 2: "chair 2", 3: "bicycle 3", 4: "chair 4", 5: "bicycle 5"}),
    ],
)
def test_classes_have_their_official_names(find, make, names, tmp_path):
    make(tmp_path)
    assert find(tmp_path).class_names == names


def test_boxes_cut_the_images(tmp_path):
    rows = {row.path: row.box for row in one_folder(tmp_path)}
    whole = find_cars196(tmp_path)
    cut = cropped(whole)
    for n in range(len(whole.images)):
        left, top, right, bottom = rows[Path(whole.images.name(n))]
        np.testing.assert_array_equal(cut.images[n], whole.images[n][top:bottom, left:right])
    some = cut.images.take(np.array([3, 1]))
    np.testing.assert_array_equal(some[0], cut.images[3])
    np.testing.assert_array_equal(some[1], cut.images[1])


def test_a_set_without_boxes_cannot_be_cropped(tmp_path):
    products(tmp_path)
    with pytest.raises(ValueError, match=r"Ebay_train.*no boxes"):
        cropped(find_sop(tmp_path))


@pytest.mark.parametrize("name", FINDERS)
@pytest.mark.parametrize("kind", ["missing", "empty", "other"])
def test_where_nothing_fits_it_is_told_what_was_looked_for_and_found(name, kind, tmp_path):
    root = tmp_path / "data"
    if kind != "missing":
        root.mkdir()
    if kind == "other":
        (root / "readme.md").write_text("hello")
    with pytest.raises(FileNotFoundError, match=str(root)) as caught:
        FINDERS[name](root)
    found = {"missing": "no such folder", "empty": "found nothing", "other": "found readme.md"}[kind]
    assert "looked for" in str(caught.value)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("find", "make", "spoil", "words"),
    [
        (find_cars196, one_folder, "car_ims/000003.jpg", ["cars_annos.mat", "000003.jpg"]),
        (find_cars196, two_folders, "cars_test", ["cars_test_annos", "6 images, of which 6", "00001.jpg"]),
        (
            find_cars196,
            two_folders,
            "devkit/cars_test_annos_withlabels.mat",
            ["cars_test_annos_withlabels"],
        ),
        (find_cars196, kaggle, "car_data/car_data/train/D/00003.jpg", ["anno_train.csv", "00003.jpg"]),
        (find_cars196, kaggle, "anno_test.csv", ["anno_test.csv"]),
        (find_cub200, birds, "images/003.Tit", ["images.txt", "12 images, of which 3", "003.Tit"]),
        (find_cub200, birds, "image_class_labels.txt", ["image_class_labels.txt"]),
        (find_sop, products, "chair_final/11104_0.JPG", ["Ebay_test.txt", "11104_0.JPG"]),
        (find_sop, products, "Ebay_test.txt", ["Ebay_test.txt"]),
    ],
)
def test_what_is_missing_is_named(find, make, spoil, words, tmp_path):
    make(tmp_path)
    path = tmp_path / spoil
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match="missing") as caught:
        find(tmp_path)
    for word in words:
        assert word in str(caught.value)


def first_line(change):
    def spoil(path):
        first, *others = path.read_text().splitlines(keepends=True)
        path.write_text("".join([change(first), *others]))

    return spoil


@pytest.mark.parametrize(
    ("find", "make", "file"),
    [(find_cars196, two_folders, "devkit/cars_meta.mat"), (find_cub200, birds, "classes.txt")],
)
def test_a_file_that_holds_only_names_may_be_missing(find, make, file, tmp_path):
    make(tmp_path)
    whole = find(tmp_path)
    (tmp_path / file).unlink()
    found = find(tmp_path)
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_array_equal(found.boxes, whole.boxes)
    assert {*found.class_names} >= {*found.labels.tolist()}


def without_classes(path):
    names = [f"{n:05d}.jpg" for n in range(1, 7)]
    columns = {k: v for k, v in cars_columns("test", fname=names).items() if k != "class"}
    scipy.io.savemat(path, {"annotations": annotations(**columns)})


def other_class(line):
    image, label = line.split()
    return f"{image} {int(label) % 4 + 1}\n"


def repeated_path(images):
    first, second, *others = images.read_text().splitlines()
    images.write_text("\n".join([first, f"{second.split()[0]} {first.split()[1]}", *others]))


@pytest.mark.parametrize(
    ("find", "make", "file", "spoil"),
    [
        (find_cars196, one_folder, "cars_annos.mat", lambda p: p.write_bytes(p.read_bytes()[:300])),
        (find_cars196, one_folder, "cars_annos.mat", lambda p: p.write_bytes(b"<html>not found</html>")),
        (find_cars196, one_folder, "cars_annos.mat", lambda p: p.write_bytes(b"")),
        (find_cars196, one_folder, "cars_annos.mat", lambda p: scipy.io.savemat(p, {"x": 1})),
        (find_cars196, two_folders, "devkit/cars_test_annos_withlabels.mat", without_classes),
        (find_cars196, two_folders, "devkit/cars_meta.mat", lambda p: p.write_bytes(b"MATLAB")),
        (find_cars196, kaggle, "anno_test.csv", first_line(lambda x: "00001.jpg,1,2,3,4\n")),
        (find_cars196, kaggle, "anno_test.csv", first_line(lambda x: "00001.jpg,1,2,3,4,Audi\n")),
        (find_cars196, kaggle, "anno_test.csv", first_line(lambda x: "file,x1,y1,x2,y2,class\n" + x)),
        (find_cars196, kaggle, "anno_test.csv", first_line(lambda x: "00001.jpg,1,2,3,4,3\n")),
        (find_cars196, kaggle, "names.csv", lambda p: p.write_text("A\nB\nC\n")),
        (find_cub200, birds, "images.txt", lambda p: p.write_bytes(b"\xff\xfe\xfd")),
        (find_cub200, birds, "image_class_labels.txt", first_line(lambda x: "7\n")),
        (find_cub200, birds, "image_class_labels.txt", first_line(lambda x: "99 1\n")),
        (find_cub200, birds, "image_class_labels.txt", first_line(other_class)),
        (find_cub200, birds, "images.txt", lambda p: p.write_text(p.read_text() + p.read_text()[:40])),
        (find_cub200, birds, "images.txt", repeated_path),
        (find_cub200, birds, "bounding_boxes.txt", first_line(lambda x: "")),
        (find_cub200, birds, "bounding_boxes.txt", first_line(lambda x: "7 1.0 2.0 nan 3.0\n")),
        (find_sop, products, "Ebay_train.txt", first_line(lambda x: "")),
        (find_sop, products, "Ebay_test.txt", first_line(lambda x: x + "1 one 1 a.JPG\n")),
    ],
)
def test_a_spoilt_file_is_named(find, make, file, spoil, tmp_path):
    make(tmp_path)
    spoil(tmp_path / file)
    with pytest.raises(ValueError, match=Path(file).name):
        find(tmp_path)


def test_what_mac_os_leaves_beside_images_is_passed_over(tmp_path):
    rows = kaggle(tmp_path)
    for row in rows:
        row.path.with_name(f"._{row.path.name}").write_bytes(b"\0\5\x16\7")
    assert sorted(rows_of(find_cars196(tmp_path))) == sorted(rows)


def write_store(root, name, rows, label, **extra):
    """A TensorFlow Datasets store with the features of the real one; its parts take turns."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Small(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = root

            def _info(self):
                features = {
                    "image": tfds.features.Image(),
                    "label": label,
                    "bbox": tfds.features.BBoxFeature(),
                }
                extras = {key: tfds.features.Text() for key in extra}
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features | extras)
                )

            def _split_generators(self, manager):
                return {part: self._generate_examples(n) for n, part in enumerate(("train", "test"))}

            def _generate_examples(self, first):
                for n, row in enumerate(rows[first::2]):
                    left, top, right, bottom = row.box
                    box = tfds.features.BBox(top / HEIGHT, left / WIDTH, bottom / HEIGHT, right / WIDTH)
                    texts = {key: text(row) for key, text in extra.items()}
                    yield n, {"image": row.path, "label": row.label - 1, "bbox": box} | texts

    Small.name = name
    Small(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """A folder of stores, and the rows of each."""
    import tensorflow_datasets as tfds

    trees, root = tmp_path_factory.mktemp("trees"), tmp_path_factory.mktemp("stores")
    cars = two_folders(trees / "cars")
    # TensorFlow Datasets takes the corners as they are in the devkit, which counts from 1.
    devkit = [row._replace(box=(row.box[0] + 1, row.box[1] + 1, *row.box[2:])) for row in cars]
    write_store(root, "cars196", devkit, tfds.features.ClassLabel(names=[name for _, name in CARS]))
    cub = birds(trees / "cub")
    label = tfds.features.ClassLabel(num_classes=4)
    write_store(root, "caltech_birds2011", cub, label, label_name=lambda row: f"bird {row.label}")
    return root, {"cars196": cars, "cub200": cub}


@pytest.mark.filterwarnings("ignore")  # those of TensorFlow Datasets
@pytest.mark.parametrize("name", ["cars196", "cub200"])
def test_a_store_of_tensorflow_datasets_is_read(name, stores, small, tmp_path):
    root, rows = stores
    source = FINDERS[name](root)
    expected = sorted((row.path.read_bytes(), row.label, row.box) for row in rows[name])
    boxes = [*map(tuple, source.boxes.tolist())]
    assert sorted(zip(contents(source.images), source.labels.tolist(), boxes, strict=True)) == expected
    assert source.class_names[3] == {"cars196": "C", "cub200": "bird 3"}[name]
    assert contents(pickle.loads(pickle.dumps(source.images))) == contents(source.images)
    assert len(PROTOCOLS[name](source).train.labels) == SMALL[name].train.images
    prepared(name, root, tmp_path / "out")
    assert_same_source(FINDERS[name](tmp_path / "out"), source)
    assert str(root) not in (tmp_path / "out" / "pddm_records.json").read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_spoilt_store_is_named(stores, tmp_path):
    shutil.copytree(stores[0] / "cars196", tmp_path / "cars196")
    (shard,) = tmp_path.glob("cars196/*/*test.array_record*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cars196/1.0.0/test\[0\] cannot be read"):
        find_cars196(tmp_path)
    info = shard.parent / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=rf"{shard.parent} is no whole store in array_record form"):
        find_cars196(tmp_path)


# --------------------------------------------------------------------------------------------- protocols


def test_the_counts_are_those_of_the_whole_sets():
    totals = {
        name: (parts.train.classes + parts.test.classes, parts.train.images + parts.test.images)
        for name, parts in protocols.EXPECTED.items()
    }
    assert totals == {"cars196": (196, 16_185), "cub200": (200, 11_788), "sop": (22_634, 120_053)}
    assert [sum(protocols.CLASSIFICATION[name]) for name in ("cars196", "cub200")] == [16_185, 11_788]


def test_classes_are_parted_by_the_protocol(tree, small):
    name, root, rows = tree
    split = PROTOCOLS[name](FINDERS[name](root))
    last = SMALL[name].train.classes
    for part, chosen in ((split.train, lambda x: x <= last), (split.test, lambda x: x > last)):
        expected = sorted((row.path, row.label) for row in rows if chosen(row.label))
        paths = [Path(part.images.name(n)) for n in range(len(part.images))]
        assert sorted(zip(paths, part.labels.tolist(), strict=True)) == expected
        assert {*part.class_names} == {label for _, label in expected}
    assert "training" in split.description


def test_a_class_that_is_short_is_told(small, tmp_path):
    birds(tmp_path)
    for file in ("images.txt", "image_class_labels.txt", "bounding_boxes.txt"):
        lines = (tmp_path / file).read_text().splitlines(keepends=True)
        (tmp_path / file).write_text("".join(line for line in lines if not line.startswith("14 ")))
    with pytest.raises(
        ValueError, match=r"cub200.* 6 images .2 classes. and 5 images .*fewest are 3 \(2\)"
    ):
        protocols.cub200(find_cub200(tmp_path))


def labelled(labels, in_train=None):
    labels = np.array(labels, np.int32)
    names = {label: f"class {label}" for label in labels.tolist()}
    images = Encoded(Files([Path("none.jpg")] * len(labels)))
    in_train = None if in_train is None else np.array(in_train)
    return Source(images, labels, names, None, in_train, "lists in a test")


@pytest.mark.parametrize("count", [8_144, 8_041])
def test_the_split_for_classification_is_recognised(count):
    with pytest.raises(
        ValueError, match=rf"8,054 images \(98 classes\).*{count:,} images .*classification"
    ):
        protocols.cars196(labelled(1 + np.arange(count) % 196))


def test_missing_and_foreign_classes_are_told(small):
    with pytest.raises(ValueError, match="1 classes have no image, such as 3"):
        protocols.cars196(labelled([1, 1, 1, 2, 2, 4, 4, 4, 4, 4, 4]))
    with pytest.raises(ValueError, match="class 0 is not one of 1 to 4"):
        protocols.cars196(labelled([1, 1, 1, 2, 2, 3, 4, 4, 4, 4, 4, 0]))


def test_a_missing_product_is_told(small):
    with pytest.raises(ValueError, match="1 classes have no image, such as 4"):
        protocols.sop(labelled([1, 1, 2, 2, 3, 3, 5, 5], [True] * 6 + [False] * 2))


def test_a_product_in_both_parts_is_told(small):
    with pytest.raises(ValueError, match=r"class 3 is in both"):
        protocols.sop(labelled([1, 1, 2, 2, 3, 3, 3, 4, 5, 5], [True] * 6 + [False] * 4))


def source_of(labels):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    names = {label: f"name {label}" for label in {*labels}}
    return Source(images, np.array(labels), names, None, None, "here")


def test_other_test_classes_are_drawn_by_seed_or_read_from_a_file(tmp_path):
    source, listed = source_of([3, 1, 4, 1, 5, 9, 2, 6]), tmp_path / "unseen"
    listed.write_text("name 9\n\n name 1 \n", encoding="utf-8")
    split = protocols.by_class(source, str(listed), seed=0)
    assert split.test.labels.tolist() == [1, 1, 9]
    assert split.train.labels.tolist() == [3, 4, 5, 2, 6]
    assert split.test.class_names == {1: "name 1", 9: "name 9"}
    assert split.train.images.ravel().tolist() == [0, 2, 4, 6, 7]
    assert split.description == f"2 of 7 classes for test, those of {listed}; the others for training"
    drawn = [protocols.by_class(source, "3", seed) for seed in (0, 0, 1, 2, 3)]
    tests = [{*split.test.class_names} for split in drawn]
    assert tests[0] == tests[1]
    assert len({frozenset(classes) for classes in tests}) > 2
    for split in drawn:
        assert len(split.test.class_names) == 3
        assert not {*split.train.labels.tolist()} & {*split.test.labels.tolist()}
        assert len(split.train.labels) + len(split.test.labels) == 8
    assert "3 of 7 classes for test, by seed 0" in drawn[0].description


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name 3\nname 8\n", "'name 8' .* has no image"),
        ("name 3\nname 1\nname 3\n", "'name 3' .* twice"),
        ("", "keeps 0 of 2"),
        ("name 3\nname 1\n", "keeps 2 of 2"),
        (0, "0 keeps 0 of 2"),
        (2, "2 keeps 2 of 2"),
        (9, "9 keeps 2 of 2"),
    ],
)
def test_test_classes_that_make_no_split_are_told(content, words, tmp_path):
    (tmp_path / "unseen").write_text(str(content), encoding="utf-8")
    unseen = content if isinstance(content, int) else tmp_path / "unseen"
    with pytest.raises(ValueError, match=f"data.test_classes: .*{words}"):
        protocols.by_class(source_of([3, 1, 1]), str(unseen), seed=0)


def test_other_test_classes_need_images_on_disk(tmp_path):
    with pytest.raises(ValueError, match=r"data\.test_classes does not apply to fashion_mnist"):
        load("fashion_mnist", str(tmp_path), None, 0, test_classes="2")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        protocols.by_class(source_of([1, 2]), str(tmp_path / "nowhere"), 0)


def test_a_folder_is_halved_by_seed_or_keeps_its_own_parts():
    labels = np.repeat(np.arange(9), 2)
    source = labelled(labels)
    splits = [protocols.folder(source, seed) for seed in (0, 0, 1)]
    train, again, other = ({*split.train.labels.tolist()} for split in splits)
    assert train == again != other
    assert len(train) == 5
    assert {*splits[0].test.labels.tolist()} == {*range(9)} - train
    own = protocols.folder(source._replace(in_train=labels < 2), 0)
    assert {*own.train.labels.tolist()} == {0, 1}
    assert {*own.test.labels.tolist()} == {*range(2, 9)}
    alone = protocols.folder(source._replace(in_train=np.ones(18, bool)), 0)
    assert {*alone.train.labels.tolist()} == train


def test_a_folder_whose_parts_share_a_class_or_has_but_one_is_refused():
    with pytest.raises(
        ValueError, match=r"1 classes are in both train/ and test/, such as 'class 2'.*move"
    ):
        protocols.folder(labelled([1, 2, 2, 3], [True, True, False, False]), 0)
    with pytest.raises(ValueError, match=r"one class cannot be split.*class 7"):
        protocols.folder(labelled([7, 7]), 0)


# ----------------------------------------------------------------------------------------------- folders


def test_a_folder_of_class_folders(tmp_path):
    files = ["b/1.jpg", "b/deep/er/2.PNG", "a c/x.JPEG", "é/1.jpg"]
    for n, name in enumerate(files):
        picture(tmp_path / name, n)
    for name in (
        "b/notes.txt",
        "b/._1.jpg",
        "b/.hidden/3.jpg",
        ".git/a/4.jpg",
        "__MACOSX/b/._1.jpg",
        "stray.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    source = find_folder(tmp_path)
    assert source.class_names == {0: "a c", 1: "b", 2: "é"}
    assert sorted(rows_of(source)) == sorted(
        Row(tmp_path / name, label) for name, label in zip(files, (1, 1, 0, 2), strict=True)
    )
    assert source.layout == "a folder for each class; 2 other files left aside"


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "bmp", "gif", "webp", "ppm", "tif", "tiff"])
def test_every_extension_is_read_in_any_case(extension, tmp_path):
    for n, name in enumerate((extension, extension.upper(), extension.title())):
        path = tmp_path / "a" / f"{n}.{name}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(n)).save(path)
    assert not check(find_folder(tmp_path).images)
    assert len(find_folder(tmp_path).images) == 3


@pytest.mark.parametrize(
    ("train", "test", "aside"),
    [
        ("train", "test", ()),
        ("Train", "TEST", ("val",)),
        ("train", "val", ()),
        ("train", "Valid", ("extra",)),
    ],
)
def test_a_folder_with_its_own_parts(train, test, aside, tmp_path):
    names = [f"{train}/b/1.jpg", f"{train}/c/1.jpg", f"{test}/a/1.jpg", f"{test}/b/1.jpg"]
    for n, name in enumerate([*names, *(f"{part}/d/1.jpg" for part in aside)]):
        picture(tmp_path / name, n)
    source = find_folder(tmp_path)
    expected = zip(names, (1, 2, 0, 1), (True, True, False, False), strict=True)
    assert sorted(rows_of(source)) == sorted(
        Row(tmp_path / x, label, None, part) for x, label, part in expected
    )
    assert source.class_names == {0: "a", 1: "b", 2: "c"}
    assert ("1 other files" in source.layout) == bool(aside)


def test_train_alone_is_not_parted_and_may_be_a_class(tmp_path):
    for name in ("train/a/1.jpg", "train/b/1.jpg"):
        picture(tmp_path / "alone" / name, 0)
    source = find_folder(tmp_path / "alone")
    assert source.class_names == {0: "a", 1: "b"}
    assert source.in_train is None
    for n, names in enumerate(
        (("train/1.jpg", "bus/1.jpg", "test/1.jpg"), ("train/old/1.jpg", "bus/1.jpg"))
    ):
        for name in names:
            picture(tmp_path / f"{n}" / name, 0)
        source = find_folder(tmp_path / f"{n}")
        assert [*source.class_names.values()] == sorted(Path(name).parts[0] for name in names)
        assert source.in_train is None


def test_a_flat_test_part_is_no_class(tmp_path):
    for name in ("train/a/1.jpg", "train/b/1.jpg", "test/1.jpg"):
        picture(tmp_path / name, 0)
    with pytest.raises(ValueError, match=r"train has a folder for each class, .*test has none"):
        find_folder(tmp_path)
    picture(tmp_path / "val" / "c" / "1.jpg", 0)
    source = find_folder(tmp_path)
    assert source.in_train.tolist() == [True, True, False]
    assert source.layout == "a folder for each class in train/ and val/; 1 other files left aside"


def test_a_class_folder_may_be_a_link(tmp_path):
    for name in ("here/a/1.jpg", "there/2.jpg"):
        picture(tmp_path / name, 0)
    (tmp_path / "there" / "3.txt").touch()
    (tmp_path / "here" / "b").symlink_to(tmp_path / "there")
    source = find_folder(tmp_path / "here")
    assert source.class_names == {0: "a", 1: "b"}
    assert source.layout == "a folder for each class; 1 other files left aside"


def test_what_was_found_instead_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"/file: looked for .*; it is a file"):
        find_folder(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"/none: looked for .*; no such folder"):
        find_folder(tmp_path / "none")
    for name in (".hidden", *(f"{n:02d}" for n in range(22))):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"found 00, 01, .* 19 and 3 more$"):
        find_folder(tmp_path)


# ---------------------------------------------------------------------------------------------- decoding


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_grey_palette_and_sixteen_bits_become_rgb():
    grey = pixels(0)[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey))), expected)
    wide = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(wide))), expected)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(wide), "TIFF")), expected)
    by_hand = b"P5 24 18 65535\n" + wide.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(by_hand), expected)
    bits = grey > 127
    found = decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(found, np.repeat(255 * bits[..., None].astype(np.uint8), 3, axis=2))
    colours = np.array([[255, 0, 0], [0, 9, 255], [1, 2, 3]], np.uint8)
    palette = Image.fromarray(grey % 3).convert("P")
    palette.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode(encoded(palette, "GIF")), colours[grey % 3])


def test_what_is_transparent_lies_on_white():
    colour, alpha = pixels(1), pixels(2)[..., :1]
    found = decode(encoded(Image.fromarray(np.concatenate([colour, alpha], axis=2))))
    share = alpha / 255
    assert np.abs(found - (share * colour + (1 - share) * 255)).max() <= 1
    palette = Image.fromarray(colour[..., 0] % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = decode(encoded(palette, transparency=1))
    expected = np.array([[10, 20, 30], [255, 255, 255]], np.uint8)[colour[..., 0] % 2]
    np.testing.assert_array_equal(found, expected)


def test_a_cmyk_jpeg_becomes_rgb():
    plain = np.full((16, 16, 4), (255, 0, 51, 0), np.uint8)  # no red, all green, a fifth less blue
    found = decode(encoded(Image.fromarray(plain, "CMYK"), "JPEG", quality=100))
    assert np.abs(found.astype(int) - (0, 255, 204)).max() <= 6


@pytest.mark.parametrize("orientation", range(9))
def test_an_image_is_turned_as_its_exif_says(orientation):
    stored = pixels(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), exif=exif)
    turned = {  # by the definition: where row 0 and column 0 of what is stored are to be seen
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored, 1),
    }.get(orientation, stored)
    np.testing.assert_array_equal(decode(data), turned)
    # A box counts in the pixels as they are stored.
    cut = encoded(Image.fromarray(stored[2:7, 3:13]), exif=exif)
    np.testing.assert_array_equal(decode(data, np.array([3, 2, 13, 7])), decode(cut))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what is broken
def test_a_broken_exif_does_not_matter():
    data = encoded(Image.fromarray(pixels(4)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert decode(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((3, 2, 13, 7), slice(2, 7), slice(3, 13)),
        ((-5, -5, 4, 99), slice(0, HEIGHT), slice(0, 4)),
        ((20, 17, 99, 99), slice(17, HEIGHT), slice(20, WIDTH)),
        ((0, 0, 1, 1), slice(0, 1), slice(0, 1)),
    ],
)
def test_a_box_is_cut_out_as_far_as_it_lies_within(box, rows, columns):
    found = decode(encoded(Image.fromarray(pixels(5))), np.array(box))
    np.testing.assert_array_equal(found, pixels(5)[rows, columns])


@pytest.mark.parametrize("box", [(3, 2, 3, 7), (5, 5, 4, 9), (24, 0, 30, 9), (-9, 0, 0, 9), (0, 18, 9, 20)])
def test_an_empty_box_is_refused(box):
    with pytest.raises(ValueError, match=r"24 x 18.*box"):
        decode(encoded(Image.fromarray(pixels(5))), np.array(box))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF"])
def test_a_truncated_image_is_refused(kind):
    data = encoded(Image.fromarray(pixels(6, 64, 64)), kind)
    for keep in (0, 1, 4, 20, 60, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="is no image that can be read"):
            decode(data[:keep])


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it finds
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_corrupt_images_are_read_or_refused_by_the_one_error(kind):
    rng = np.random.default_rng(7)
    data = encoded(Image.fromarray(pixels(8)), kind)
    for _ in range(60):
        spoilt = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 3):
            spoilt[place] = rng.integers(256)
        try:
            found = decode(bytes(spoilt))
        except ValueError:
            continue
        assert found.shape[2] == 3


def test_floats_have_no_black_and_white():
    with pytest.raises(ValueError, match="floats"):
        decode(encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"))


def test_check_names_what_cannot_be_decoded(tmp_path):
    for n in range(6):
        picture(tmp_path / "a" / f"{n}.jpg", n)
    broken, empty = tmp_path / "a" / "1.jpg", tmp_path / "a" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    empty.write_bytes(b"")
    source = find_folder(tmp_path)
    (tmp_path / "a" / "5.jpg").unlink()
    found = check(source.images)
    assert [*found] == [1, 4, 5]
    for error, path in zip(found.values(), (broken, empty, tmp_path / "a" / "5.jpg"), strict=True):
        assert str(path) in str(error)
    with pytest.raises(ValueError, match=str(broken)):
        source.images[1]
    assert [*check(source.images.take(np.array([0, 4, 2])))] == [1]


# --------------------------------------------------------------------------------------------- shards


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


def test_shards_equal_the_files_bit_for_bit(tree, small, tmp_path):
    name, root, rows = tree
    prepared(name, root, tmp_path / "out")
    found, expected = FINDERS[name](tmp_path / "out"), FINDERS[name](root)
    assert_same_source(found, expected)
    assert len([*(tmp_path / "out").glob("*.array_record")]) == -(-len(rows) // 4)
    assert str(root) not in (tmp_path / "out" / "pddm_records.json").read_text()
    if expected.boxes is not None:
        assert_same_source(cropped(found), cropped(expected))
    ours, theirs = (PROTOCOLS[name](source) for source in (found, expected))
    for a, b in ((ours.train, theirs.train), (ours.test, theirs.test)):
        np.testing.assert_array_equal(a.labels, b.labels)
        assert contents(a.images) == contents(b.images)
        assert a.class_names == b.class_names


@pytest.fixture
def many(tmp_path):
    """A folder of 30 images in three classes."""
    for n in range(30):
        picture(tmp_path / "many" / f"class {n % 3}" / f"{n:02d}.png", n)
    return tmp_path / "many"


def test_shards_are_read_by_copies_and_by_threads(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    images, expected = find_folder(tmp_path / "out").images, contents(find_folder(many).images)
    assert images.read(7) == expected[7]  # so that a reader is open
    copy = pickle.loads(pickle.dumps(images.take(np.array([5, 29, 0]))))
    assert contents(copy) == [expected[n] for n in (5, 29, 0)]
    order = np.random.default_rng(0).integers(0, 30, 600).tolist()
    fresh = find_folder(tmp_path / "out").images
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(fresh.read, order)] == [expected[n] for n in order]


def test_a_shard_for_which_there_is_no_room_is_named(many, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"no space left for .*out/images-00000-of-00008"):
            prepared("folder", many, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [*(tmp_path / "out").iterdir()]


def test_few_shards_are_open_at_a_time(many, tmp_path, monkeypatch):
    prepared("folder", many, tmp_path / "out")
    monkeypatch.setattr(records, "OPEN", 2)
    found, expected = find_folder(tmp_path / "out").images, contents(find_folder(many).images)
    before = len([*Path("/proc/self/fd").iterdir()])
    order = np.random.default_rng(0).integers(0, 30, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(found.read, order)] == [expected[n] for n in order]
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 10  # two, and one at most for each thread


def test_preparing_again_changes_nothing(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    prepared("folder", many, tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    prepared("folder", tmp_path / "out", tmp_path / "copy")
    assert files_of(tmp_path / "copy") == before


def test_a_changed_image_is_written_anew(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    picture(many / "class 1" / "10.png", 99)
    prepared("folder", many, tmp_path / "out")
    assert contents(find_folder(tmp_path / "out").images) == contents(find_folder(many).images)


def test_a_folder_of_other_shards_is_refused(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match=r"out holds shards .*of-00008.*same flags"):
        prepared("folder", many, tmp_path / "out", shard_images=5)
    with pytest.raises(ValueError, match="out holds prepared images of folder, not of sop"):
        find_sop(tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_other_prepared_images_are_refused(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    (many / "class 2" / "29.png").unlink()  # the last
    with pytest.raises(ValueError, match=r"out holds prepared images of other files.* class 2/29\.png"):
        prepared("folder", many, tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_an_index_that_was_cut_off_is_written_anew(many, tmp_path):
    prepared("folder", many, tmp_path / "out")
    before = files_of(tmp_path / "out")
    (tmp_path / "out" / "pddm_records.json").write_text("")
    prepared("folder", many, tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_a_name_that_is_no_utf8_is_refused_before_anything_is_written(many, tmp_path):
    (many / "class 0").rename(many / os.fsdecode(b"caf\xe9"))
    with pytest.raises(ValueError, match=r"'caf\\udce9/00\.png' is no UTF-8"):
        prepared("folder", many, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_of_which_nothing_can_be_read_is_told(part, tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/c/1.png", "test/d/1.png"):
        picture(tmp_path / name, 0)
    for path in tmp_path.glob(f"{part}/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"none of the 2 images for {part} can be read: .*1.png"):
        load("folder", str(tmp_path), None, 0, on_error="skip")


def spoil_images(many):
    broken = [many / "class 0" / "09.png", many / "class 2" / "20.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:-300])
    return broken


def test_an_unreadable_image_stops_by_name(many, tmp_path):
    broken = spoil_images(many)
    with pytest.raises(ValueError, match=f"{broken[0]} .*--on_error=skip"):
        prepared("folder", many, tmp_path / "out")
    assert not (tmp_path / "out" / "pddm_records.json").exists()
    assert not [*(tmp_path / "out").glob(".*")]


def test_an_unreadable_image_is_skipped_if_asked(many, tmp_path):
    broken = spoil_images(many)
    skipped = prepared("folder", many, tmp_path / "out", skip=True)
    assert [many / name for name in skipped] == broken
    before = files_of(tmp_path / "out")
    assert prepared("folder", many, tmp_path / "out", skip=True) == skipped
    assert files_of(tmp_path / "out") == before
    found, rows = find_folder(tmp_path / "out"), rows_of(find_folder(many))
    for number, row in enumerate(rows):
        if row.path in broken:
            with pytest.raises(LeftOut, match=rf"{row.path.name} was skipped"):
                found.images.read(number)
        else:
            assert found.images.read(number) == row.path.read_bytes()
    assert found.labels.tolist() == [row.label for row in rows]
    # So the same images cannot be read, whichever form they are in.
    unreadable = [*check(find_folder(many).images)]
    assert [*check(found.images)] == unreadable
    assert [rows[number].path for number in unreadable] == broken
    with pytest.raises(ValueError, match=str(broken[0])):
        prepared("folder", many, tmp_path / "out")
    for n, path in enumerate(broken):
        picture(path, n)
    prepared("folder", many, tmp_path / "out", skip=True)
    assert_same_source(find_folder(tmp_path / "out"), find_folder(many))


def test_corrupt_shards_are_named(many, tmp_path):
    out = tmp_path / "out"
    prepared("folder", many, out)
    path = sorted(out.glob("*.array_record"))[2]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{path.name} is truncated"):
        find_folder(out)
    for spoilt in (content[:1000] + bytes(len(content) - 1000), bytes(len(content))):
        path.write_bytes(spoilt)
        images = find_folder(out).images
        with pytest.raises(ValueError, match=rf"{path.name} is corrupt"):
            images.read(9)
        assert images.read(0)
        assert {*check(images)} <= {8, 9, 10, 11}
    path.unlink()
    with pytest.raises(FileNotFoundError, match=path.name):
        find_folder(out)
    prepared("folder", many, tmp_path / "whole")
    for spoilt in (bytes(len(content)), content[: len(content) // 2], b""):
        path.write_bytes(spoilt)
        prepared("folder", many, out)
        assert files_of(out) == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"version": 2', '"version": 3'),
        lambda text: text.replace('"labels": [0, ', '"labels": ['),
        lambda text: text.replace('"labels": [0, ', '"labels": ["x", '),
        lambda text: text.replace('"layout"', '"format"'),
        lambda text: text.replace('["images-00000', '["../images-00000'),
        lambda text: text.replace('["images-00000', '["/images-00000'),
        lambda text: text.replace('"labels": [0, ', '"labels": [99999999999, '),
        lambda text: text.replace('"labels": [0, ', '"labels": [7, '),
        lambda text: text + chr(0),
        lambda text: "[" * 100_000,
    ],
)
def test_a_spoilt_index_is_named(many, tmp_path, change):
    prepared("folder", many, tmp_path / "out")
    path = tmp_path / "out" / "pddm_records.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=str(path)):
        find_records(tmp_path / "out", "folder")


def command(*arguments):
    return ("pddm_jax.data.prepare", "--source=folder", "--shard_images=4", "--workers=1", *arguments)


def test_a_killed_run_goes_on_to_the_same_bytes(many, tmp_path, start, run_command):
    prepared("folder", many, tmp_path / "whole")
    slow = [many / "class 1" / f"{n:02d}.png" for n in (7, 10, 13, 16)]  # all in the fourth shard
    contents = [image.read_bytes() for image in slow]
    for image in slow:
        Image.new("RGB", (6000, 5000)).save(image)  # a good part of a second each
    out = tmp_path / "out"
    process = start(*command(f"--root={many}", f"--out={out}"))
    until = time.monotonic() + 60
    while len([*out.glob("images-*")]) < 3 or not [*out.glob(".*")]:
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = files_of(out)
    shards = {name for name in left if not name.startswith(".")}
    assert shards == {f"images-{n:05d}-of-00008.array_record" for n in range(3)}
    written = {name: (out / name).stat().st_mtime_ns for name in shards}

    for image, content in zip(slow, contents, strict=True):
        image.write_bytes(content)
    status, printed, _ = run_command(*command(f"--root={many}", f"--out={out}"))
    assert status == 0
    assert f"{out}: 30 images of folder" in printed
    whole = files_of(tmp_path / "whole")
    assert files_of(out) == whole
    assert {name: (out / name).stat().st_mtime_ns for name in shards} == written


def test_the_command_ends_with_one_line_that_names_the_image(many, tmp_path, run_command):
    (broken, _) = spoil_images(many)
    status, _, errors = run_command(*command(f"--root={many}", f"--out={tmp_path / 'out'}"))
    assert status == 2
    assert f"error: {broken}" in errors.splitlines()[-1]
    assert "Traceback" not in errors
