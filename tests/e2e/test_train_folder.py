"""`pddm_jax.train` on folders with train/ and test/ parts."""

import json
import shutil

import pytest

import pddm_jax
from pddm_jax.data.from_python import train_and_test
from tests.helpers.small_runs import CLASSES, FIELDS, Flat, assert_equal_bits, write_pngs

SMALL = FIELDS | {"data.image_size": 8}


def train(workdir, images, **more):
    given = {"network": Flat(), "steps": 2, "config": SMALL} | more
    return pddm_jax.train(images, workdir=workdir, **given)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """A folder with train/ and test/ parts of other classes, and a file that is not an image."""
    root = tmp_path_factory.mktemp("parted")
    write_pngs(root / "train", CLASSES, 4)
    write_pngs(root / "other", CLASSES + 3, 3)
    (root / "test").mkdir()
    for label in (3, CLASSES + 1, CLASSES + 2):
        (root / "other" / f"class {label:02}").rename(root / "test" / f"class {label:02}")
    shutil.rmtree(root / "other")
    (root / "train" / "class 00" / "notes.jxl").write_bytes(b"")
    return root


@pytest.mark.long
def test_a_folder_with_parts_trains_on_one_and_evaluates_the_other(parted, tmp_path):
    given = {"test_images": parted / "test", "objective": "softmax"}
    expected = train(tmp_path / "expected", parted / "train", **given)
    for name, test_images in (("alone", None), ("twice", parted)):
        run = train(tmp_path / name, parted, **given | {"test_images": test_images})
        assert_equal_bits(run, expected)
        assert rows(tmp_path / name)[-1]["recall_at_1"] == rows(tmp_path / "expected")[-1]["recall_at_1"]
        assert run.config["classes"] == CLASSES
        assert run.config["train_sha256"] == expected.config["train_sha256"]


@pytest.mark.long
def test_validation_classes_are_evaluated_instead_of_the_test_part(parted, tmp_path):
    fields = SMALL | {"data.val_class_fraction": 0.4, "train.eval_every": 1}
    train(tmp_path / "run", parted, config=fields | {"data.classes_per_batch": 2})
    last = rows(tmp_path / "run")[-1]
    assert "validation_recall_at_1" in last
    assert "recall_at_1" not in last


def test_notes_on_a_folder_are_reported(parted, caplog):
    data, test = train_and_test(parted, None)
    assert (len(data.labels), len(test.labels)) == (4 * CLASSES, 9)
    assert test.class_names == {0: "class 03", 1: f"class {CLASSES + 1:02}", 2: f"class {CLASSES + 2:02}"}
    assert ".jxl" in caplog.text


def test_a_test_part_of_single_images_is_left_out(tmp_path):
    write_pngs(tmp_path / "train", 2, 2)
    write_pngs(tmp_path / "test", 2, 1)
    assert train_and_test(tmp_path, None)[1] is None
