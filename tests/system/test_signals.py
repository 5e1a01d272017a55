"""Handlers of signals, and contexts that hide log lines."""

import logging
import signal
import sys
import threading
import warnings
from types import SimpleNamespace

import jax
import pytest
from PIL import Image

from pddm_jax.data.prepare.command import RESUMES
from pddm_jax.system import quiet, signals
from pddm_jax.system.quiet import SuppressLogs
from pddm_jax.training.checkpoint import Checkpoints, Preempted


@pytest.fixture
def joined(monkeypatch):
    """A distributed run, where JAX handles SIGTERM."""
    seen = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    former = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, former)


def test_joined_processes_leave_at_the_step_that_all_have_reached(tmp_path, monkeypatch, joined):
    stopped = False

    def run():
        nonlocal stopped
        with Checkpoints(tmp_path, 1) as checkpoints:
            reached = set()
            monkeypatch.setattr(checkpoints._manager, "reached_preemption", reached.__contains__)
            signal.raise_signal(signal.SIGHUP)
            assert joined == [signal.SIGTERM]
            assert not checkpoints.preempted(1)
            reached.add(2)
            stopped = checkpoints.preempted(2)

    with pytest.raises(Preempted) as caught:
        run()
    assert stopped
    assert caught.value.name == "SIGHUP"


def test_joined_processes_end_alike_where_a_signal_came_after_the_last_step(tmp_path, joined):
    with Checkpoints(tmp_path, 1):
        signal.raise_signal(signal.SIGHUP)
    assert joined == [signal.SIGTERM]


def in_a_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found


def test_outside_of_the_main_thread_nothing_is_listened_for(tmp_path):
    before = [signal.getsignal(number) for number in (*signals.ENDING, signal.SIGINT)]

    def train():
        with Checkpoints(tmp_path, 1) as checkpoints, signals.exit_on_signal("x", 143):
            signals.Interrupts("x").listen()
            return checkpoints.preempted(1)

    assert in_a_thread(train) == [False]
    assert [signal.getsignal(number) for number in (*signals.ENDING, signal.SIGINT)] == before


def test_a_handler_of_c_stays(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("it cannot be given back"))
    signals.deferred().restore()
    signals.Interrupts("x").listen()


def changed():
    loggers = [[*logging.getLogger(name).filters] for name in ("absl", "asyncio")]
    return loggers, [*warnings.filters], sys.unraisablehook


def record(path, text):
    return logging.LogRecord("absl", logging.ERROR, path, 1, text, None, None)


def shows(name, path="x.py", text="x"):
    return bool(logging.getLogger(name).filter(record(path, text)))


@pytest.fixture
def fresh(monkeypatch):
    """Contexts as in a process without an error so far."""
    former = quiet._shared
    former.remove()
    monkeypatch.setattr(quiet, "_shared", quiet._Shared())
    yield
    quiet._shared.remove()
    if former._failed:
        former.install()


def test_after_an_error_what_orbax_abandoned_stays_hidden(monkeypatch, fresh):
    monkeypatch.setattr(logging.getLogger("absl"), "level", logging.WARNING)
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    closed = SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
    other = SimpleNamespace(exc_value=RuntimeError("x"), object=None)
    with SuppressLogs(), pytest.raises(ValueError, match="mine"), SuppressLogs():
        raise ValueError("mine")
    for _ in range(2):
        assert shows("absl", "orbax/x.py")
        assert not shows("asyncio", text="Task exception was never retrieved: tensorstore_spec")
        assert shows("asyncio", text="Task exception was never retrieved: of another library")
        sys.unraisablehook(closed)
        assert not seen
        with SuppressLogs():
            pass
    sys.unraisablehook(other)
    assert seen == [other]


def test_contexts_without_an_error_change_nothing_for_good(monkeypatch, fresh):
    monkeypatch.setattr(logging.getLogger("absl"), "level", logging.WARNING)
    before = changed()
    with SuppressLogs(), SuppressLogs():
        assert not shows("absl", "orbax/x.py")
        assert not shows("asyncio", text="Task exception was never retrieved: tensorstore_spec")
    assert changed() == before
    assert shows("absl", "orbax/x.py")


def test_contexts_that_overlap_end_with_the_last_one(fresh):
    with warnings.catch_warnings():
        before = changed()
        first, second = SuppressLogs().__enter__(), SuppressLogs().__enter__()
        first.__exit__(None, None, None)
        assert changed() != before
        warnings.filterwarnings("ignore", "of another, meanwhile")
        second.__exit__(None, None, None)
        del warnings.filters[0]
        assert changed() == before


def test_a_hook_that_came_later_stays(monkeypatch, fresh):
    monkeypatch.setattr(sys, "unraisablehook", print)
    with SuppressLogs():
        sys.unraisablehook = repr
    assert sys.unraisablehook is repr


def test_modules_import_where_there_are_no_signals_and_locks_of_unix(python):
    code = """
import os, signal, sys
import jax
for name in ("termios", "fcntl"):
    sys.modules[name] = None
del signal.SIGHUP
for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "register_at_fork"):
    delattr(os, name)
from pathlib import Path
from pddm_jax.system import lock, regular, signals
assert [number.name for number in signals.ENDING] == ["SIGTERM"]
assert not signals._terminal_is_gone()
signals.deferred().restore()
regular.open_regular(Path(sys.argv[1])).close()
"""
    status, _, err = python("-c", code, __file__)
    assert status == 0, err


@pytest.mark.long
@pytest.mark.parametrize("number", signals.ENDING)
def test_prepare_ends_in_one_line_and_its_processes_with_it(number, tmp_path, python):
    root = tmp_path / "images"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for image in range(4):
            Image.new("RGB", (8, 8), (image, 0, 0)).save(root / name / f"{image}.png")
    code = """
import os, signal
from pddm_jax.data.prepare import command as prepare
from pddm_jax.system import cli
def struck(*arguments):
    results = in_processes(*arguments)
    yield next(results)
    signal.raise_signal(int(os.environ["NUMBER"]))
    yield from results
in_processes, prepare.in_processes = prepare.in_processes, struck
cli.launch(prepare.COMMAND)
"""
    given = ["--source=folder", f"--root={root}", f"--out={tmp_path / 'out'}", "--shard_images=2"]
    status, _, err = python("-c", code, *given, "--workers=2", NUMBER=str(int(number)))
    assert (status, err) == (143, f"ended by {signal.Signals(number).name}: {RESUMES}\n")
    assert not [*(tmp_path / "out").glob(".*")]
