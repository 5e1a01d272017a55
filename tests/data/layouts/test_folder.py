"""Folders of images as users have them: parts by many names, links, what is no file or there twice."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from pddm_jax.data import load
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.storage.decode import check
from tests.helpers.builders import Row, picture, pixels, rows_of, write_images


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
    with pytest.raises(ValueError, match=r"test has no class folders, but .*train has"):
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
    with pytest.raises(FileNotFoundError, match=r"/file, which is a file: looked for"):
        find_folder(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"/none, which does not exist: looked for"):
        find_folder(tmp_path / "none")
    for name in (".hidden", *(f"{n:02d}" for n in range(22))):
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=r"found 00, 01, .* 19 and 3 more$"):
        find_folder(tmp_path)


def classes_of(root):
    source = find_folder(root)
    return sorted(str(row.path.relative_to(root)) for row in rows_of(source)), source


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
    source = find_folder(write_images(tmp_path, *names))
    assert source.class_names == dict(enumerate("abcd"))
    assert dict(zip(source.labels.tolist(), source.in_train.tolist(), strict=True)) == {
        0: True,
        1: True,
        2: False,
        3: False,
    }


def test_images_for_validation_beside_a_test_part_are_not_read_and_that_is_told(tmp_path):
    root = write_images(
        tmp_path, "train/a/1.jpg", "test/b/1.jpg", "validation/c/1.jpg", "validation/c/2.jpg"
    )
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
        ValueError, match=r"are not supported: put their class folders into test/"
    ) as caught:
        find_folder(write_images(tmp_path, *names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/1.jpg", "test/1.jpg"), r"test/ and train/, which are not classes: put .*train/<class>/"),
        (("Training/1.jpg", "Testing/1.jpg"), "which are not classes"),
        (("test/a/1.jpg", "val/a/1.jpg"), "which are not classes"),
        (
            ("train/a/1.jpg", "Training/b/1.jpg", "test/c/1.jpg"),
            r"Training/ and train/, but one is exp",
        ),
        (("train/a/1.jpg", "test/b/1.jpg", "Testing/c/1.jpg"), r"Testing/ and test/, but one is expected"),
        (("train/a/1.jpg", "val/b/1.jpg", "dev/c/1.jpg"), r"dev/ and val/, but one is expected"),
        (("train/a/1.jpg", "training/1.jpg"), r"training has no class folders, but .*train has"),
        (("dataset/a/1.jpg", "dataset/b/1.jpg"), r"if these are the classes, give data\.root=\S*/dataset$"),
        (("dataset/train/a/1.jpg", "dataset/test/b/1.jpg"), r"data\.root=\S*/dataset$"),
        (("x/y/a/1.jpg", "x/y/b/deep/1.jpg"), r"data\.root=\S*/x/y$"),
        (("train/set/a/1.jpg", "train/set/b/1.jpg"), r"data\.root=\S*/train/set$"),
        (("test/a/1.jpg", "test/b/1.jpg"), r"data\.root=\S*/test$"),
    ],
)
def test_folders_that_are_no_classes_are_refused_in_a_line(names, words, tmp_path):
    with pytest.raises(ValueError, match=words) as caught:
        find_folder(write_images(tmp_path, *names))
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
    source = find_folder(write_images(tmp_path, *names))
    assert [*source.class_names.values()] == sorted(Path(name).parts[0] for name in names)


def test_a_folder_that_is_a_class_is_told(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"2 images are not read, since they are in no class folder"
    ):
        find_folder(write_images(tmp_path, "1.jpg", "2.jpg"))


@pytest.mark.parametrize("target", [".", "..", "a", "../data/b", "/"])
def test_a_class_folder_that_leads_back_doubles_nothing(target, tmp_path):
    root = write_images(tmp_path / "data", "a/1.jpg", "b/1.jpg", "b/2.jpg")
    before, _ = classes_of(root)
    (root / "loop").symlink_to(target, target_is_directory=True)
    after, source = classes_of(root)
    assert after == before
    assert source.class_names == {0: "a", 1: "b"}
    (note,) = source.notes
    assert note.startswith(f"{root}/loop is a link to ")


def test_of_two_links_to_one_folder_one_counts(tmp_path):
    write_images(tmp_path, "elsewhere/1.jpg", "data/b/1.jpg")
    for name in ("a", "c"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere")
    names, source = classes_of(tmp_path / "data")
    assert names == ["a/1.jpg", "b/1.jpg"]
    assert source.notes == (
        f"{tmp_path}/data/c is a link to {tmp_path}/data/a: left out, so that no image counts twice",
    )


@pytest.mark.parametrize("link", ["symbolic", "hard", "relative"])
def test_files_that_are_one_are_told(link, tmp_path):
    root = write_images(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg")
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
    write_images(tmp_path, "train/a/1.jpg", "train/b/1.jpg")
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(ValueError, match=r"test and \S*train are the same folder"):
        find_folder(tmp_path)


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
    root = write_images(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
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
    root = write_images(tmp_path / "data", "a/1.jpg", "a/inner.jpg/2.jpg", "b/1.jpg")
    picture(tmp_path / "elsewhere.jpg", 9)
    (root / "b" / "2.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    source = find_folder(root)
    assert len(source.labels) == 4
    assert not check(source.images)
    assert not source.notes


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    root, scandir = write_images(tmp_path, "a/1.jpg", "a/locked/2.jpg", "b/1.jpg"), os.scandir

    def refusing(path):  # whoever runs this may be root, to whom all is open
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(OSError, match=r"Permission denied: .*a/locked"):
        find_folder(root)


def test_a_file_that_is_too_large_is_named_before_it_is_read(tmp_path):
    root = write_images(tmp_path, "a/1.jpg", "b/1.jpg")
    with (root / "b" / "2.jpg").open("wb") as file:
        file.truncate(2**30 + 1)  # takes no room
    errors = check(find_folder(root).images)
    assert [*errors] == [2]
    assert "b/2.jpg is too large: 1,073,741,825 bytes" in str(errors[2])


def test_other_extensions_are_told(tmp_path):
    root = write_images(tmp_path, "a/1.jpg", "b/1.jpg")
    for n in range(18):
        (root / "a" / f"{n}.HEIC").write_bytes(b"x")
    for name in ("b/2.avif", "b/3.jxl", "b/4"):
        (root / name).write_bytes(b"x")
    source = find_folder(root)
    (note,) = source.notes
    assert note.startswith("files that are not images by their extension are left out: .HEIC (18), ")
    for words in (".avif (1)", ".jxl (1)", "no extension (1)"):
        assert words in note
    assert source.layout == "a folder for each class; 21 other files left aside"
    for path in root.glob("*/*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no images by class .*\.HEIC \(18\)"):
        find_folder(root)
