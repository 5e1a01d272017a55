"""Layouts of data sets on disk: ids, boxes and names of each, and errors that name the file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pddm_jax.data.layouts.base import cropped
from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.data.load import FINDERS
from tests.helpers.builders import (
    CARS,
    annotations,
    birds,
    cars_columns,
    contents,
    kaggle,
    one_folder,
    products,
    rows_of,
    two_folders,
)


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
    with pytest.raises(ValueError, match=r"no boxes in Ebay_train"):
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
    found = {"missing": "which does not exist", "empty": "found nothing", "other": "found readme.md"}[kind]
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
