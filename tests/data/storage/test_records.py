"""ArrayRecord shards and their index, read back."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pddm_jax.data.layouts.base import cropped, find_records
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.load import FINDERS
from pddm_jax.data.storage import records
from pddm_jax.data.storage.decode import check
from tests.helpers.builders import PROTOCOLS, assert_same_source, contents, files_of, prepared


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


def test_few_shards_are_open_at_a_time(many, tmp_path, monkeypatch):
    prepared("folder", many, tmp_path / "out")
    monkeypatch.setattr(records, "OPEN", 2)
    found, expected = find_folder(tmp_path / "out").images, contents(find_folder(many).images)
    before = len([*Path("/proc/self/fd").iterdir()])
    order = np.random.default_rng(0).integers(0, 30, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(found.read, order)] == [expected[n] for n in order]
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + 10  # two, and one at most for each thread


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
