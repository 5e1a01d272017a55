"""Locks on folders: one command at a time."""

import errno
import fcntl
import json
import os
import socket

import pytest

from pddm_jax.system import lock
from pddm_jax.system.files import NotWritten, sweep
from pddm_jax.system.lock import InUse, Lock


def test_a_folder_is_locked_by_one_and_free_and_as_it_was_afterwards(tmp_path):
    folder = tmp_path / "a" / "b"
    with Lock(folder, "--out"):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
        (folder / "file").touch()
        told = rf"{folder} is in use by process {os.getpid()} on .*, or choose another --out"
        with pytest.raises(InUse, match=told), Lock(folder, "--out"):
            pass
    assert [path.name for path in folder.iterdir()] == ["file"]
    with Lock(folder, "--out"):
        pass
    with Lock(tmp_path / "c", "--out"):
        pass
    assert not (tmp_path / "c").exists()  # nothing was left in it


def test_what_a_kill_has_left_locks_nothing(tmp_path):
    (tmp_path / ".lock").write_text('{"pid": 1, "host": "gone"}')
    with Lock(tmp_path, "--out"):
        pass
    assert not [*tmp_path.iterdir()]


@pytest.mark.filterwarnings("ignore:.*fork")  # by a process with threads; the child uses none of them
def test_a_forked_process_does_not_hold_the_lock_on(tmp_path):
    (wait, go), (ready, ready_writer) = os.pipe(), os.pipe()
    with Lock(tmp_path, "--out") as held:
        child = os.fork()
        if not child:
            os.close(go)
            os.write(ready_writer, b"x")
            os.read(wait, 1)  # until the other end is closed
            os._exit(0)
        os.read(ready, 1)
        os.close(held._file)  # as a kill does
        held._file = None
        with Lock(tmp_path, "--out"):
            pass
        os.close(go)
        os.waitpid(child, 0)
    for end in (wait, ready, ready_writer):
        os.close(end)


@pytest.mark.filterwarnings("ignore:.*fork")  # by a process with threads; the children use none of them
def test_a_lock_that_a_child_of_a_killed_holder_keeps_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    (wait, go), (ready, told) = os.pipe(), os.pipe()
    holder = os.fork()
    if not holder:
        file = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(file, fcntl.LOCK_EX)
        os.write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        if not os.fork():  # as a process that is about to start another program
            os.close(go)
            os.read(wait, 1)  # until the other end is closed
            os._exit(0)
        os.write(told, b"x")
        os._exit(0)
    os.read(ready, 1)
    os.waitpid(holder, 0)
    waits = []

    def let_go(seconds):
        if not waits:
            os.close(go)
        waits.append(seconds)

    monkeypatch.setattr(lock.time, "sleep", let_go)
    with Lock(tmp_path, "--out"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert waits
    for end in (wait, ready, told):
        os.close(end)


def test_where_there_are_no_locks_a_line_says_so(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    with Lock(tmp_path, "--out"):
        pass
    assert "has no locks" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def closed(*_):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "open", closed)
    with (
        pytest.raises(NotWritten, match=rf"{tmp_path} cannot be written: read-only"),
        Lock(tmp_path, "--x"),
    ):
        pass


def test_what_killed_writes_left_is_swept_when_the_folder_is_locked(tmp_path):
    (tmp_path / f".{'a' * 32}-results.json").write_text("half")
    (tmp_path / f".{'a' * 32}-folder").mkdir()
    others = [f".{'a' * 31}-x", ".hidden", f"{'a' * 32}-x", "results.json"]
    for name in others:
        (tmp_path / name).touch()
    with Lock(tmp_path, "--workdir"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*others, f".{'a' * 32}-folder"}
    sweep(tmp_path / "nowhere")


def test_a_full_disk_keeps_no_folder_from_being_locked_and_none_locked(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with (
            Lock(tmp_path, "--workdir"),
            pytest.raises(InUse, match="in use by another process"),
            Lock(tmp_path, "--workdir"),
        ):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", full)
        with pytest.raises(OSError, match=r"(?i)no space"), Lock(tmp_path, "--workdir"):
            pass
    with Lock(tmp_path, "--workdir"):
        pass


@pytest.mark.parametrize("call", ["open", "ftruncate", "write"])
def test_a_signal_while_a_folder_is_locked_leaves_no_trace(call, tmp_path, monkeypatch):
    happens = getattr(os, call)

    def struck(*arguments):
        happens(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, struck)
        lock = Lock(tmp_path / "run", "--workdir")
        abandon = lock._abandon

        def undisturbed():
            patch.undo()
            abandon()

        lock._abandon = undisturbed
        with pytest.raises(KeyboardInterrupt), lock:
            pass
    assert not (tmp_path / "run").exists()
    with Lock(tmp_path / "run", "--workdir"):
        pass


def test_a_lock_that_is_refused_leaves_the_holders_file(tmp_path):
    with Lock(tmp_path / "run", "--workdir"):
        with pytest.raises(InUse), Lock(tmp_path / "run", "--workdir"):
            pass
        assert (tmp_path / "run" / ".lock").exists()
    assert not (tmp_path / "run").exists()
