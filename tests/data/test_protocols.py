"""Splits by the protocols of the literature, by seed and by file."""

from pathlib import Path

import numpy as np
import pytest

from pddm_jax.data import load, protocols
from pddm_jax.data.layouts.base import Source
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.load import FINDERS
from tests.helpers.builders import PROTOCOLS, SMALL, birds, labelled


def test_the_counts_are_those_of_the_whole_sets():
    totals = {
        name: (parts.train.classes + parts.test.classes, parts.train.images + parts.test.images)
        for name, parts in protocols.EXPECTED.items()
    }
    assert totals == {"cars196": (196, 16_185), "cub200": (200, 11_788), "sop": (22_634, 120_053)}
    assert [sum(protocols.CLASSIFICATION_SIZES[name]) for name in ("cars196", "cub200")] == [16_185, 11_788]


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


@pytest.mark.parametrize("count", [8_144, 8_041])
def test_the_split_for_classification_is_recognised(count):
    with pytest.raises(
        ValueError, match=rf"8,054 images \(98 classes\).*{count:,} images .*classification"
    ):
        protocols.cars196(labelled(1 + np.arange(count) % 196))


def test_missing_and_foreign_classes_are_told(small):
    with pytest.raises(ValueError, match="1 classes have no image, for example 3"):
        protocols.cars196(labelled([1, 1, 1, 2, 2, 4, 4, 4, 4, 4, 4]))
    with pytest.raises(ValueError, match="class id 0 is outside 1 to 4"):
        protocols.cars196(labelled([1, 1, 1, 2, 2, 3, 4, 4, 4, 4, 4, 0]))


def test_a_missing_product_is_told(small):
    with pytest.raises(ValueError, match="1 classes have no image, for example 4"):
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
        ("", "selects 0 of 2"),
        ("name 3\nname 1\n", "selects 2 of 2"),
        (0, "0 selects 0 of 2"),
        (2, "2 selects 2 of 2"),
        (9, "9 selects 2 of 2"),
    ],
)
def test_test_classes_that_make_no_split_are_told(content, words, tmp_path):
    (tmp_path / "unseen").write_text(str(content), encoding="utf-8")
    unseen = content if isinstance(content, int) else tmp_path / "unseen"
    with pytest.raises(ValueError, match=f"data.test_classes.*{words}"):
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
        ValueError, match=r"1 classes are in both train/ and test/, for example 'class 2'.*keep each"
    ):
        protocols.folder(labelled([1, 2, 2, 3], [True, True, False, False]), 0)
    with pytest.raises(ValueError, match=r"only one class, .*class 7"):
        protocols.folder(labelled([7, 7]), 0)
