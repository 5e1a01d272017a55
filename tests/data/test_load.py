"""Data sets by name, and by the fields of a config."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from pddm_jax.data import ClosedSet, Split, closed_set_of, load, load_closed_set, load_data, load_parts
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.load import find
from pddm_jax.data.prepare.command import prepare
from tests.helpers.builders import write_images


def test_the_limit_of_pixels_is_a_field(tmp_path):
    root = write_images(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
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
        with pytest.raises(ValueError, match=r"data\.max_pixels must be a positive integer"):
            load("folder", str(root), None, 0, max_pixels=wrong)


def test_a_limit_goes_with_the_images(tmp_path):
    source = find_folder(write_images(tmp_path, "a/1.jpg", "b/1.jpg"))
    some = source.images.limited(100).take(np.array([1]))
    with pytest.raises(ValueError, match=r"pixels, more than data\.max_pixels = 100"):
        some[0]
    assert some.numbers().tolist() == [1]


def test_errors_are_one_line_whatever_the_names_are(tmp_path):
    root = write_images(tmp_path, "a\nb/1.png", "c\x1b[1m/2.png")
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
    with pytest.raises(ValueError, match=r"^data\.root: found only one class, 'a\\nb'"):
        load("folder", str(write_images(tmp_path, "a\nb/1.png")), None, 0)


def test_no_data_in_any_place_of_their_own_is_told(python, tmp_path):
    code = (
        "from pathlib import Path; from pddm_jax.data import fashion_mnist; "
        "fashion_mnist.SYSTEM_ROOT = Path('/nowhere'); fashion_mnist.load(None, None, 0)"
    )
    status, _, err = python("-c", code, TFDS_DATA_DIR=str(tmp_path))
    assert status == 1
    assert err.splitlines()[-1].startswith("FileNotFoundError: no Fashion-MNIST in /nowhere")


def test_unknown_data_lists_what_exists():
    with pytest.raises(ValueError, match=r"data\.name.*fashion_mnist.*glyphs.*'cars'"):
        load("cars", None, None, 0)


# ---------------------------------------------------------------------- by the fields of a config


def data_fields(name, root, **changed):
    fields = {"name": name, "root": str(root), "image_size": 8, "on_error": "stop", "max_pixels": 10**6}
    lists = dict.fromkeys(("classes", "ground_truth", "test_classes"))
    return fields | lists | {"crop": "none", "val_class_fraction": 0.0, "seen_test": 0.0} | changed


@pytest.fixture
def listed(tmp_path):
    """Images of six classes by WordNet id, and the fields of a config for them."""
    wnids = [f"n{n:08d}" for n in range(6)]
    write_images(tmp_path / "data", *(f"{wnid}/{wnid}_{n}.jpg" for wnid in wnids for n in range(4)))
    (tmp_path / "wnids.txt").write_text("\n".join(wnids))
    return data_fields("imagenet", tmp_path / "data", classes=str(tmp_path / "wnids.txt"))


def test_a_set_with_classes_for_test_is_a_split_and_any_other_a_closed_set(tmp_path):
    write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "abcd" for n in range(4)))
    fields = data_fields("folder", tmp_path)
    for closed_set in (False, True):
        split = load_data(fields, closed_set=closed_set, seed=0)
        assert isinstance(split, Split)
        assert not split.train.class_names.keys() & split.test.class_names.keys()
    closed = closed_set_of(fields, 0)
    assert isinstance(closed, ClosedSet)
    assert closed.train.class_names == closed.test.class_names


def test_a_set_of_listed_classes_is_closed_unless_it_has_test_classes(listed, tmp_path):
    closed = load_data(listed, closed_set=True, seed=0)
    assert isinstance(closed, ClosedSet)
    assert len(closed.train.class_names) == len(closed.test.class_names) == 6
    with pytest.raises(ValueError, match=r"data\.name must be .* got 'imagenet'"):
        load_data(listed, closed_set=False, seed=0)
    for changed in ({"test_classes": "2"}, {"crop": "bbox"}):
        with pytest.raises(ValueError, match=r"data\.crop and data\.test_classes do not apply to imagenet"):
            load_data(listed | changed, closed_set=True, seed=0)
    source = find("imagenet", listed["root"], listed["classes"])
    prepare("imagenet", source, tmp_path / "data", tmp_path / "out", 9, False)
    fields = data_fields("imagenet", tmp_path / "out", test_classes="2")
    split = load_data(fields, closed_set=False, seed=0)
    assert [len(part.class_names) for part in (split.train, split.test)] == [4, 2]


def test_an_unknown_name_lists_all_sets(tmp_path):
    with pytest.raises(ValueError, match=r"data\.name must be one of .*cars196.*imagenet2010.*'cars'"):
        load_data(data_fields("cars", tmp_path), closed_set=True, seed=0)


def test_fields_of_early_runs_have_no_limit_of_pixels_and_others_keep_theirs(listed):
    limited = listed | {"max_pixels": 100}
    for read in (lambda x: load_data(x, closed_set=True, seed=0), lambda x: closed_set_of(x, 0)):
        with pytest.raises(ValueError, match=r"more than data\.max_pixels = 100"):
            read(limited)
        read({name: value for name, value in limited.items() if name != "max_pixels"})


def test_parts_of_a_run_share_no_image_and_validation_no_class(tmp_path):
    write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "abcdefgh" for n in range(5)))
    fields = data_fields("folder", tmp_path)
    whole = load_parts(fields, closed_set=False, seed=3)
    assert whole.train is whole.split.train
    assert whole.evaluated is whole.split.test
    assert whole.seen is None
    parts = load_parts(fields | {"val_class_fraction": 0.25, "seen_test": 0.4}, closed_set=False, seed=3)
    names = [
        {of.images.name(n) for n in range(len(of.labels))}
        for of in (parts.train, parts.evaluated, parts.seen, parts.split.test)
    ]
    assert [len(of) for of in names] == [9, 5, 6, 20]
    assert len(set().union(*names)) == 40
    assert parts.seen.class_names == parts.train.class_names
    assert not parts.evaluated.class_names.keys() & parts.train.class_names.keys()
    with pytest.raises(ValueError, match=r"data\.seen_test of 0\.1 selects no image"):
        load_parts(fields | {"seen_test": 0.1}, closed_set=False, seed=3)
    with pytest.raises(ValueError, match=r"data\.val_class_fraction of 0\.01 holds out 0 of 4 classes"):
        load_parts(fields | {"val_class_fraction": 0.01}, closed_set=False, seed=3)
