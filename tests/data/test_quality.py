"""Unreadable images, images of equal bytes, and classes of one image."""

import shutil

import pytest

from pddm_jax.data import load, load_closed_set
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.prepare.command import prepare
from tests.helpers.builders import picture, write_images


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_of_which_nothing_can_be_read_is_told(part, tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "test/c/1.png", "test/d/1.png"):
        picture(tmp_path / name, 0)
    for path in tmp_path.glob(f"{part}/*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"none of the 2 images for {part} can be read: .*1.png"):
        load("folder", str(tmp_path), None, 0, on_error="skip")


def test_empty_class_folders_and_classes_of_one_image_are_told(tmp_path, warned):
    root = write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "abc" for n in range(2)), "d/1.jpg")
    (root / "e").mkdir()
    (root / "f").mkdir()
    load("folder", str(root), None, 0)
    assert "data: 2 class folders hold no image: e, f" in warned
    (alone,) = [line for line in warned if "have one image" in line]
    assert "1 of 2 " in alone
    assert "'d'" in alone


def test_an_ordinary_folder_is_told_nothing(tmp_path, warned):
    write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "abcd" for n in range(2)))
    load("folder", str(tmp_path), None, 0)
    load_closed_set("folder", str(tmp_path), None, 0)
    assert not warned


def equal_images(warned):
    return [line for line in warned if "same bytes" in line]


@pytest.mark.parametrize("prepared", [False, True])
def test_images_of_the_same_bytes_in_several_classes_are_told(prepared, tmp_path, warned):
    root = write_images(tmp_path / "data", *(f"{c}/{n}.jpg" for c in "abcd" for n in range(3)))
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
    write_images(
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
    write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "ab" for n in range(2)))
    monkeypatch.setattr("pddm_jax.data.storage.decode.key_of", lambda data: (1, 2))
    load("folder", str(tmp_path), None, 0)
    assert not equal_images(warned)
