"""Files that are written atomically, and errors in one line."""

import errno
import json
import os
import stat

import pytest

from pddm_jax.system.files import (
    NotWritten,
    explain_errors,
    held,
    read_object,
    replacing,
    sweep_abandoned,
    write_json,
    write_text,
)


def test_a_file_is_replaced_whole_and_its_folder_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "höher")
    write_text(path, "second")
    assert path.read_bytes() == b"second"
    write_json(path.with_suffix(".json"), {"name": "Ä", "numbers": [1, 2.5, None]})
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Ä", "numbers": [1, 2.5, None]}
    assert text.endswith("}\n")
    assert "Ä" in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["file.json", "file.txt"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(("number", "word"), [(28, "no space left"), (122, "no space"), (30, "read-only")])
def test_what_cannot_be_written_is_named_in_one_line(number, word, tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(number, "it is so")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match=word) as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [-float("inf")]}, object()])
def test_what_json_cannot_hold_is_not_written(value, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", value)
    assert not [*tmp_path.iterdir()]


def test_a_file_and_its_name_are_on_the_disk_in_turn(tmp_path, monkeypatch):
    order, fsync = [], os.fsync

    def recorded(number):
        order.append(("fsync", stat.S_ISDIR(os.fstat(number).st_mode), (tmp_path / "x").exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", recorded)
    with replacing(tmp_path / "x") as part:
        part.write_bytes(b"x")
    assert order == [("fsync", False, False), ("fsync", True, True)]


def test_a_folder_below_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match="is a file"), explain_errors(tmp_path / "file" / "run"):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")


def test_names_that_are_not_utf_8_are_stored_and_come_back(tmp_path):
    for value in {"root": "/x/\udcff"}, {"name": "한글"}:
        write_json(tmp_path / "x.json", value)
        assert read_object(tmp_path / "x.json", "todo") == value
    assert "한글" in (tmp_path / "x.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_damage(number, tmp_path):
    (tmp_path / "x.json").write_text(f'{{"rate": {number}}}')
    with pytest.raises(ValueError, match=rf"x\.json is damaged: .*the number {number} is not finite; todo"):
        read_object(tmp_path / "x.json", "todo")


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    told = pytest.raises(NotWritten, match="x is a folder: expected a file")
    with told, replacing(tmp_path / "x") as part:
        part.write_bytes(b"x")
    assert [*tmp_path.iterdir()] == [tmp_path / "x"]


def test_temporary_files_of_killed_writers_are_swept_and_those_of_living_ones_are_not(tmp_path):
    left, own = (tmp_path / f".{letter * 32}-x.npz" for letter in "ab")
    left.write_bytes(b"half")
    (tmp_path / ".hidden-x.npz").touch()
    with held(own):
        own.write_bytes(b"some")
        sweep_abandoned(tmp_path)
        assert own.read_bytes() == b"some"
    assert not left.exists()
    sweep_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden-x.npz"]
