"""Folders of images as users have them: parts by many names, links, what is no file or there twice."""

import io
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from absl import logging
from PIL import Image

from pddm_jax.data import load, load_closed_set
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.storage.decode import check
from tests.data.test_sources import picture, rows_of


@pytest.fixture
def warned(monkeypatch):
    """The warnings, a line each."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: lines.append(text % arguments))
    return lines


def tree(root, *names):
    """Images of these names, each of its own pixels."""
    for n, name in enumerate(names):
        picture(root / name, n)
    return root


def classes_of(root):
    source = find_folder(root)
    return sorted(str(row.path.relative_to(root)) for row in rows_of(source)), source


# ------------------------------------------------------------------------------------------ parts by name


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Training", "Testing"),
        ("trn", "tst"),
        ("TRAIN", "Validation"),
        ("train", "dev"),
        ("train_set", "test-images"),
        ("training", "VAL"),
    ],
)
def test_parts_have_many_names(train, test, tmp_path):
    names = [f"{train}/a/1.jpg", f"{train}/b/1.jpg", f"{test}/c/1.jpg", f"{test}/d/1.jpg"]
    source = find_folder(tree(tmp_path, *names))
    assert source.class_names == dict(enumerate("abcd"))
    assert dict(zip(source.labels.tolist(), source.in_train.tolist(), strict=True)) == {
        0: True,
        1: True,
        2: False,
        3: False,
    }


def test_images_for_validation_beside_a_test_part_are_not_read_and_that_is_told(tmp_path):
    root = tree(tmp_path, "train/a/1.jpg", "test/b/1.jpg", "validation/c/1.jpg", "validation/c/2.jpg")
    source = find_folder(root)
    assert source.class_names == {0: "a", 1: "b"}
    (note,) = source.notes
    assert "2 images are not read" in note
    assert f"{root}/validation/c/1.jpg" in note


@pytest.mark.parametrize(
    "names",
    [
        ("train/a/1.jpg", "query/b/1.jpg", "gallery/b/2.jpg"),
        ("Train/a/1.jpg", "Query/1.jpg", "Gallery/2.jpg"),
        ("train/1.jpg", "query/1.jpg", "gallery/2.jpg"),
        ("query/a/1.jpg", "gallery/a/2.jpg"),
        ("probe/a/1.jpg", "gallery/a/2.jpg"),
        ("train/a/1.jpg", "test/b/1.jpg", "gallery/b/2.jpg"),
    ],
)
def test_query_and_gallery_are_no_classes(names, tmp_path):
    with pytest.raises(
        ValueError, match=r"not read apart: put the class folders of both into test/"
    ) as caught:
        find_folder(tree(tmp_path, *names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/1.jpg", "test/1.jpg"), r"test/ and train/, which are no classes: put .*train/<class>/"),
        (("Training/1.jpg", "Testing/1.jpg"), "which are no classes"),
        (("test/a/1.jpg", "val/a/1.jpg"), "which are no classes"),
        (("train/a/1.jpg", "Training/b/1.jpg", "test/c/1.jpg"), r"Training/ and train/: which of them"),
        (("train/a/1.jpg", "test/b/1.jpg", "Testing/c/1.jpg"), r"Testing/ and test/: which of them"),
        (("train/a/1.jpg", "val/b/1.jpg", "dev/c/1.jpg"), r"dev/ and val/: which of them"),
        (("train/a/1.jpg", "training/1.jpg"), r"train has a folder for each class, .*training has none"),
        (("dataset/a/1.jpg", "dataset/b/1.jpg"), r"data\.root=\S*/dataset, whose folders"),
        (("dataset/train/a/1.jpg", "dataset/test/b/1.jpg"), r"data\.root=\S*/dataset,"),
        (("x/y/a/1.jpg", "x/y/b/deep/1.jpg"), r"data\.root=\S*/x/y,"),
        (("train/set/a/1.jpg", "train/set/b/1.jpg"), r"data\.root=\S*/train/set,"),
        (("test/a/1.jpg", "test/b/1.jpg"), r"data\.root=\S*/test,"),
    ],
)
def test_folders_that_are_no_classes_are_refused_in_a_line(names, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        find_folder(tree(tmp_path, *names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "names",
    [
        ("bus/1.jpg", "train/1.jpg", "gallery/1.jpg"),
        ("train/1.jpg", "test/1.jpg", "bus/1.jpg"),
        ("probe/1.jpg", "camera/1.jpg"),
        ("trainer/a/1.jpg", "tester/b/1.jpg"),
    ],
)
def test_classes_may_be_called_like_parts(names, tmp_path):
    source = find_folder(tree(tmp_path, *names))
    assert [*source.class_names.values()] == sorted(Path(name).parts[0] for name in names)


def test_a_folder_that_is_a_class_is_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"2 images are not read, since they lie in no class folder"
    ):
        find_folder(tree(tmp_path, "1.jpg", "2.jpg"))


# -------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("target", [".", "..", "a", "../data/b", "/"])
def test_a_class_folder_that_leads_back_doubles_nothing(target, tmp_path):
    root = tree(tmp_path / "data", "a/1.jpg", "b/1.jpg", "b/2.jpg")
    before, _ = classes_of(root)
    (root / "loop").symlink_to(target, target_is_directory=True)
    after, source = classes_of(root)
    assert after == before
    assert source.class_names == {0: "a", 1: "b"}
    (note,) = source.notes
    assert note.startswith(f"{root}/loop is a link to ")


def test_of_two_links_to_one_folder_one_counts(tmp_path):
    tree(tmp_path, "elsewhere/1.jpg", "data/b/1.jpg")
    for name in ("a", "c"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    names, source = classes_of(tmp_path / "data")
    assert names == ["a/1.jpg", "b/1.jpg"]
    assert source.notes == (
        f"{tmp_path}/data/c is a link to {tmp_path}/data/a: left out, so that no image counts twice",
    )


@pytest.mark.parametrize("link", ["symbolic", "hard", "relative"])
def test_files_that_are_one_are_told(link, tmp_path):
    root = tree(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
    if link == "hard":
        (root / "b" / "2.jpg").hardlink_to(root / "a" / "2.jpg")
    else:
        (root / "b" / "2.jpg").symlink_to("../a/2.jpg" if link == "relative" else root / "a" / "2.jpg")
    names, source = classes_of(root)
    assert len(names) == 4
    (note,) = source.notes
    assert note.startswith("1 images are links to the files of other images")
    assert f"{root}/a/2.jpg and {root}/b/2.jpg" in note


def test_parts_that_are_one_folder_are_refused(tmp_path):
    tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(ValueError, match=r"test and \S*train are one folder, by a link"):
        find_folder(tmp_path)


# ---------------------------------------------------------------------- what is no regular file


def make_odd(path, kind):
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.chdir(path.parent)  # a socket's name has at most 108 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a FIFO":
        os.mkfifo(path.parent / ".fifo")
        path.symlink_to(".fifo")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.symlink_to("nowhere.jpg")


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "link to a FIFO", "loop", "dangling"])
def test_what_is_no_regular_file_is_an_image_that_cannot_be_read(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tree(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    make_odd(root / "b" / "3.jpg", kind)
    errors = check(find_folder(root).images)
    assert [*errors] == [4]
    assert f"{root}/b/3.jpg" in str(errors[4])
    if kind not in ("loop", "dangling"):
        assert "not a regular file" in str(errors[4])
    with pytest.raises(ValueError, match=r"1 of 5 images cannot be read: .*b/3\.jpg.*data\.on_error=skip"):
        load("folder", str(root), None, 0)
    split = load("folder", str(root), None, 0, on_error="skip")
    assert len(split.train.labels) + len(split.test.labels) == 4
    skipped = prepare("folder", find_folder(root), root, root.parent / f"{root.name}-out", 9, skip=True)
    assert skipped == ["b/3.jpg"]


def test_a_link_to_a_regular_file_and_a_folder_named_like_an_image_are_fine(tmp_path):
    root = tree(tmp_path / "data", "a/1.jpg", "a/inner.jpg/2.jpg", "b/1.jpg")
    picture(tmp_path / "elsewhere.jpg", 9)
    (root / "b" / "2.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    source = find_folder(root)
    assert len(source.labels) == 4
    assert not check(source.images)
    assert not source.notes


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root, scandir = tree(tmp_path, "a/1.jpg", "a/locked/2.jpg", "b/1.jpg"), os.scandir

    def refusing(path):  # whoever runs this may be root, to whom all is open
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(OSError, match=r"Permission denied: .*a/locked"):
        find_folder(root)


def test_a_file_that_is_too_large_is_named_before_it_is_read(tmp_path):
    root = tree(tmp_path, "a/1.jpg", "b/1.jpg")
    with (root / "b" / "2.jpg").open("wb") as file:
        file.truncate(2**30 + 1)  # takes no room
    errors = check(find_folder(root).images)
    assert [*errors] == [2]
    assert "b/2.jpg has 1,073,741,825 bytes, more than" in str(errors[2])


# -------------------------------------------------------------------- what is told, a line each


def test_other_extensions_are_told(tmp_path):
    root = tree(tmp_path, "a/1.jpg", "b/1.jpg")
    for n in range(18):
        (root / "a" / f"{n}.HEIC").write_bytes(b"x")
    for name in ("b/2.avif", "b/3.jxl", "b/4"):
        (root / name).write_bytes(b"x")
    source = find_folder(root)
    (note,) = source.notes
    assert note.startswith("files that are no images by their extension are left out: .HEIC (18), ")
    for words in (".avif (1)", ".jxl (1)", "no extension (1)"):
        assert words in note
    assert source.layout == "a folder for each class; 21 other files left aside"
    for path in root.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no images by class .*\.HEIC \(18\)"):
        find_folder(root)


def test_empty_class_folders_and_classes_of_one_image_are_told(tmp_path, warned):
    root = tree(tmp_path, *(f"{c}/{n}.jpg" for c in "abc" for n in range(2)), "d/1.jpg")
    (root / "e").mkdir()
    (root / "f").mkdir()
    load("folder", str(root), None, 0)
    assert "data: 2 class folders hold no image: e, f" in warned
    (alone,) = [line for line in warned if "have one image" in line]
    assert "1 of 2 " in alone
    assert "'d'" in alone


def test_an_ordinary_folder_is_told_nothing(tmp_path, warned):
    tree(tmp_path, *(f"{c}/{n}.jpg" for c in "abcd" for n in range(2)))
    load("folder", str(tmp_path), None, 0)
    load_closed_set("folder", str(tmp_path), None, 0)
    assert not warned


def equal_images(warned):
    return [line for line in warned if "same bytes" in line]


@pytest.mark.parametrize("prepared", [False, True])
def test_images_of_the_same_bytes_in_several_classes_are_told(prepared, tmp_path, warned):
    root = tree(tmp_path / "data", *(f"{c}/{n}.jpg" for c in "abcd" for n in range(3)))
    for name in ("b/8.jpg", "c/8.jpg"):
        shutil.copy(root / "a" / "1.jpg", root / name)
    shutil.copy(root / "d" / "1.jpg", root / "d" / "9.jpg")  # of one class: not told
    if prepared:
        prepare("folder", find_folder(root), root, tmp_path / "out", 4, skip=False)
        (told,) = equal_images(warned)
        warned.clear()
        root = tmp_path / "out"
    found = load("folder", str(root), None, 0)
    assert sum(len(part.labels) for part in (found.train, found.test)) == 15  # none is dropped
    (line,) = equal_images(warned)
    assert line.startswith("data: 3 images have the same bytes as others, in several classes")
    assert sum(name in line for name in ("a/1.jpg", "b/8.jpg", "c/8.jpg")) == 2
    if prepared:
        assert line == told
    assert "same bytes" not in found.description


def test_images_of_the_same_bytes_in_training_and_test_are_told(tmp_path, warned):
    tree(
        tmp_path,
        *(f"{part}/{c}/{part}{n}.jpg" for part in ("train", "test") for c in "ab" for n in range(2)),
    )
    shutil.copy(tmp_path / "train" / "a" / "train1.jpg", tmp_path / "test" / "a" / "x.jpg")
    load_closed_set("folder", str(tmp_path), None, 0)
    (line,) = equal_images(warned)
    assert line == (
        "data: 2 images have the same bytes as others, in training and test, for example "
        f"{tmp_path}/train/a/train1.jpg and {tmp_path}/test/a/x.jpg"
    )


def test_images_of_the_same_length_and_checksum_are_compared(tmp_path, warned, monkeypatch):
    tree(tmp_path, *(f"{c}/{n}.jpg" for c in "ab" for n in range(2)))
    monkeypatch.setattr("pddm_jax.data.storage.decode.key_of", lambda data: (1, 2))
    load("folder", str(tmp_path), None, 0)
    assert not equal_images(warned)


# ------------------------------------------------------------------------------ limit of pixels


def test_the_limit_of_pixels_is_a_field(tmp_path):
    root = tree(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    buffer = io.BytesIO()
    Image.new("P", (50, 40)).save(buffer, "PNG")
    (root / "b" / "3.png").write_bytes(buffer.getvalue())
    words = r"b/3\.png has 50 x 40 = 2,000 pixels, more than data\.max_pixels = 1,999: "
    for read in (load, load_closed_set):
        with pytest.raises(ValueError, match=words) as caught:
            read("folder", str(root), None, 0, max_pixels=1999)
        assert "\n" not in str(caught.value)
        read("folder", str(root), None, 0, max_pixels=2000)
    split = load("folder", str(root), None, 0, on_error="skip", max_pixels=1999)
    assert len(split.train.labels) + len(split.test.labels) == 4
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"data\.max_pixels must be a whole number above 0"):
            load("folder", str(root), None, 0, max_pixels=wrong)


def test_a_limit_goes_with_the_images(tmp_path):
    source = find_folder(tree(tmp_path, "a/1.jpg", "b/1.jpg"))
    some = source.images.limited(100).take(np.array([1]))
    with pytest.raises(ValueError, match=r"pixels, more than data\.max_pixels = 100"):
        some[0]
    assert some.numbers().tolist() == [1]


def test_errors_are_one_line_whatever_the_names_are(tmp_path):
    root = tree(tmp_path, "a\nb/1.png", "c\x1b[1m/2.png")
    broken = root / "a\nb" / "3.png"
    broken.write_bytes(b"no image")
    os.mkfifo(root / "c\x1b[1m" / "4.png")
    shown = str(root).replace("\n", "\\n") + "/a\\nb/3.png"
    for read in (
        lambda: load("folder", str(root), None, 0),
        lambda: prepare("folder", find_folder(root), root, tmp_path / "out", 9, False),
        lambda: find_folder(root).images[1],
    ):
        with pytest.raises(ValueError, match=r"^[^\n\x1b]*$") as caught:
            read()
        assert shown in str(caught.value)


def test_one_class_is_refused_by_the_name_of_the_field(tmp_path):
    with pytest.raises(ValueError, match=r"^data\.root: one class cannot be split .* 'a\\nb' alone$"):
        load("folder", str(tree(tmp_path, "a\nb/1.png")), None, 0)
