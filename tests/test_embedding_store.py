"""Stored embeddings: damage is named, and a kill at the end loses nothing."""

import json
import os

import numpy as np
import pytest

from pddm_jax.embedding_store import file_digest, finish, read
from pddm_jax.training import checkpoint_files


def flip(path, place=5):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def about_of(rows):
    return {"rows": {"train": rows - 1, "test": 1}, "columns": 3, "order": "as listed"}


@pytest.fixture
def stored(tmp_path):
    part = tmp_path / ".out.part"
    part.mkdir()
    np.save(part / "embeddings.npy", np.arange(12, dtype=np.float32).reshape(4, 3))
    np.save(part / "labels.npy", np.arange(4))
    np.save(part / "parts.npy", np.zeros(4, np.uint8))
    (part / "names.txt").write_text("a\nb\nc\nd\n")
    (part / "done.json").write_text("4")
    finish(part, tmp_path / "out", about_of(4))
    return tmp_path / "out"


NAMES = ["about.json", "embeddings.npy", "labels.npy", "names.txt", "parts.npy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [flip, empty, os.unlink, lambda path: flip(path, -2)])
def test_damage_to_any_file_of_embeddings_is_named(damage, name, stored):
    assert sorted(path.name for path in stored.iterdir()) == NAMES
    np.testing.assert_array_equal(read(stored).embeddings, np.arange(12).reshape(4, 3))
    damage(stored / name)
    with pytest.raises((ValueError, FileNotFoundError), match=name) as caught:
        read(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES[1:])
def test_embeddings_without_digests_must_have_their_shapes(name, stored):
    about = read(stored).about
    del about["files"]
    (stored / "about.json").write_text(json.dumps(about))
    assert len(read(stored).labels) == 4
    path = stored / name
    path.write_bytes(path.read_bytes()[: -8 if name != "parts.npy" else -1])
    with pytest.raises(ValueError, match=name):
        read(stored)


@pytest.mark.parametrize("moment", ["rename", "unlink"])
def test_a_kill_at_the_end_loses_no_embeddings(moment, stored, monkeypatch):
    part = stored.with_name(".out.part")
    stored.rename(part)
    (part / "done.json").write_text("4")
    digests = {name: file_digest(part / name) for name in NAMES[1:]}

    happens = getattr(checkpoint_files.Path, moment)

    def killed(path, *rest, **named):
        if path in (part, stored / "done.json"):
            raise KeyboardInterrupt
        return happens(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files.Path, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            finish(part, stored, about_of(4))
    there = part if moment == "rename" else stored
    assert {name: file_digest(there / name) for name in NAMES[1:]} == digests
    assert (there / "done.json").read_text() == "4"
    assert read(there).about["rows"] == {"train": 3, "test": 1}
