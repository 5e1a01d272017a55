"""Other images of the same classes for training and for test."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.data import CLOSED_SETS, glyphs, load_closed_set
from pddm_jax.data.closed_set import per_class_mask, split_by_mask, split_images_in_half
from pddm_jax.data.images import Images
from tests.helpers.builders import picture


def numbered(labels):
    """Images that hold their own number, in two pixels."""
    numbers = np.arange(len(labels))
    images = np.stack([numbers % 256, numbers // 256], axis=1).astype(np.uint8)[:, None, :, None]
    return Images(images, np.array(labels, np.int32), {label: f"name {label}" for label in {*labels}})


def numbers_of(data):
    pairs = np.asarray(data.images, int)[:, 0, :, 0]
    return (pairs[:, 0] + 256 * pairs[:, 1]).tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 2**40))
def test_each_class_is_halved(labels, seed):
    labels = [*labels, *labels, 3, 3, 3]  # of each class at least two
    data = numbered(labels)
    found = split_images_in_half(data, seed)
    train, test = numbers_of(found.train), numbers_of(found.test)
    assert sorted(train + test) == [*range(len(labels))]
    assert train == sorted(train)
    assert test == sorted(test)
    for part, numbers in ((found.train, train), (found.test, test)):
        assert part.labels.tolist() == [labels[number] for number in numbers]
        assert part.class_names == data.class_names
    counts = Counter(labels)
    assert Counter(found.train.labels.tolist()) == {label: -(-n // 2) for label, n in counts.items()}
    assert found.description == f"half of the images of each class by seed {seed}"


def test_the_halves_are_drawn_by_seed_and_those_of_a_class_stay_when_others_come():
    labels = [5] * 40 + [7] * 41
    first, again, other = (
        numbers_of(split_images_in_half(numbered(labels), seed).train) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert {n for n in first if n < 40} != {n - 40 for n in first if n >= 40}  # each class by itself
    more = numbers_of(split_images_in_half(numbered([5] * 40 + [2] * 6 + [7] * 41), 0).train)
    assert [n for n in more if n < 40] + [n - 6 for n in more if n >= 46] == first


@given(st.lists(st.integers(0, 4), max_size=40), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_a_share_of_each_class_is_drawn_and_rounded_down(labels, share):
    chosen = per_class_mask(numbered(labels), share, 0)
    assert chosen.shape == (len(labels),)
    for label, count in Counter(labels).items():
        assert chosen[np.array(labels) == label].sum() == int(share * count)


def test_every_image_is_for_test_by_some_seed_about_as_often_as_not():
    counts = np.zeros(8, int)
    for seed in range(400):
        counts[numbers_of(split_images_in_half(numbered([1] * 8), seed).test)] += 1
    assert counts.sum() == 1600
    assert np.abs(counts - 200).max() < 50  # five standard deviations


def test_what_cannot_be_closed_is_refused():
    with pytest.raises(ValueError, match="class 'name 4' has only one image"):
        split_images_in_half(numbered([1, 1, 4]), 0)
    with pytest.raises(ValueError, match="no test images"):
        split_images_in_half(numbered([]), 0)
    with pytest.raises(ValueError, match=r"2 classes have test images and no .*'name 3' \(by hand\)"):
        split_by_mask(numbered([1, 1, 3, 4]), np.array([True, False, False, False]), "by hand")
    found = split_by_mask(numbered([1, 1, 3]), np.array([True, False, True]), "by hand")
    assert found.test.class_names == {1: "name 1"}
    assert found.train.class_names == {1: "name 1", 3: "name 3"}


def test_glyphs_of_the_test_classes_are_halved(glyph_root):
    found, split = load_closed_set("glyphs", str(glyph_root), 32, 0), glyphs.load(str(glyph_root), 32, 0)
    assert found.train.class_names == found.test.class_names == split.test.class_names
    both = [np.concatenate(pair) for pair in zip(found.train[:2], found.test[:2], strict=True)]
    assert sorted(image.tobytes() for image in both[0]) == sorted(x.tobytes() for x in split.test.images)
    halved = "half of the images of each class by seed 0"
    assert found.description == f"the other half of the classes by seed 0, disjoint; of these {halved}"


def test_a_folder_is_halved_or_keeps_its_own_parts(tmp_path):
    for n in range(9):
        picture(tmp_path / "whole" / "ab"[n % 2] / f"{n}.png", n)
        picture(tmp_path / "parted" / ("train", "test")[n % 3 == 0] / "ab"[n % 2] / f"{n}.png", n)
    found = load_closed_set("folder", str(tmp_path / "whole"), None, 3)
    assert Counter(found.train.labels.tolist()) == {0: 3, 1: 2}
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    assert (
        found.description == "half of the images of each class by seed 3; read from a folder for each class"
    )
    found = load_closed_set("folder", str(tmp_path / "parted"), None, 0)
    assert [found.test.images.name(n) for n in range(3)] == [
        str(tmp_path / "parted" / "test" / name) for name in ("a/0.png", "a/6.png", "b/3.png")
    ]
    assert found.description.startswith("images parted as they are on disk; read from")


def test_a_class_whose_images_for_training_are_all_unreadable_is_told(tmp_path):
    for n, part in enumerate(("train", "train", "test")):
        for name in "ab":
            picture(tmp_path / part / name / f"{n}.png", n)
    (tmp_path / "test" / "b" / "2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 6 images cannot be read: .*b/2\.png"):
        load_closed_set("folder", str(tmp_path), None, 0)
    found = load_closed_set("folder", str(tmp_path), None, 0, on_error="skip")
    assert found.test.class_names == {0: "a"}
    assert "1 unreadable images left out" in found.description
    for n in (0, 1):
        (tmp_path / "train" / "a" / f"{n}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 classes have test images and no training images, .*'a'"):
        load_closed_set("folder", str(tmp_path), None, 0, on_error="skip")


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"data\.name.*glyphs"):
        load_closed_set("cars196", ".", None, 0)
    with pytest.raises(ValueError, match=r"data\.on_error"):
        load_closed_set("folder", ".", None, 0, on_error="pass")
    for name in sorted({*CLOSED_SETS} - {"glyphs"}):
        with pytest.raises(ValueError, match=rf"data\.root must be given for {name}"):
            load_closed_set(name, None, None, 0)
