"""One command at a time in a folder."""

import errno
import fcntl
import json
import os
import socket

import pytest

from pddm_jax.system import lock
from pddm_jax.system.files import NotWritten
from pddm_jax.system.lock import InUse, Lock


def test_a_folder_is_locked_by_one_and_free_and_as_it_was_afterwards(tmp_path):
    folder = tmp_path / "a" / "b"
    with Lock(folder, "--out"):
        assert json.loads((folder / ".lock").read_text())["pid"] == os.getpid()
        (folder / "file").touch()
        told = rf"{folder} is in use by process {os.getpid()} on .*, or give another --out"
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
    (wait, go), (ready, say) = os.pipe(), os.pipe()
    with Lock(tmp_path, "--out") as held:
        child = os.fork()
        if not child:
            os.close(go)
            os.write(say, b"x")
            os.read(wait, 1)  # until the other end is closed
            os._exit(0)
        os.read(ready, 1)
        os.close(held._file)  # as a kill does
        held._file = None
        with Lock(tmp_path, "--out"):
            pass
        os.close(go)
        os.waitpid(child, 0)
    for end in (wait, ready, say):
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
