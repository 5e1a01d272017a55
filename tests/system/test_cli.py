"""The shell of commands: exit codes, one-line errors, tracebacks with --debug, checks and signals."""

import dataclasses
import errno
import json
import os
import signal
import socket
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import app, flags

from pddm_jax.system import cli, signals
from pddm_jax.system.cli import check_file, check_folder, given_path, wants_debug
from pddm_jax.system.console import one_line
from pddm_jax.system.errors import verdict


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("data.root must be given"), 2, "error: data.root must be given"),
        (ValueError("a\n  b\x1b[0m\n"), 2, "error: a b\\x1b[0m"),
        (ValueError(), 2, "error: ValueError"),
        (FileNotFoundError("there is no x"), 2, "error: there is no x"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: [Errno 13] "),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "error: [Errno 28] No space"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 1, "error: out of memory ("),
        (flags.IllegalFlagValueError("flag --x=1"), 2, "error: flag --x=1"),
        (app.UsageError("unknown"), 2, "error: unknown"),
        (FloatingPointError("training diverged"), 1, "error: training diverged"),
        (MemoryError(), 1, "error: out of memory (MemoryError): lower --batch"),
        (MemoryError("Unable to allocate 3 TiB"), 1, "error: out of memory (Unable to allocate 3 TiB): "),
        (
            RuntimeError("RESOURCE_EXHAUSTED: 9 bytes\n" + "x\n" * 99),
            1,
            "error: out of memory (RESOURCE",
        ),
        (RuntimeError("a\nb"), 1, "error: RuntimeError: a b (unexpected error, "),
        (KeyError("x"), 1, "error: KeyError: 'x' (unexpected error, probably a bug"),
        (ValueError("x" * 99999), 2, "error: " + "x" * 300),
        (AssertionError(), 1, "error: AssertionError (unexpected error, probably a bug"),
        (TypeError("x" * 9999), 1, "error: TypeError: xxx"),
    ],
)
def test_the_verdict(error, code, line):
    found = verdict(error, "--batch")
    assert found[0] == code
    assert found[1].startswith(line)
    assert "\n" not in found[1]
    assert len(found[1]) < (600 if code == 1 else 2000)


def raised(code, module, folder):
    """The ValueError of a line of a module."""
    try:
        exec(compile(code, "<x>", "exec"), {"__name__": module, "np": np, "jnp": jnp, "folder": folder})
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("code", "module", "code_of"),
    [
        ('raise ValueError("data.root must be given")', "pddm_jax.data", 2),
        ('raise ValueError("data.root must be given")', "experiments.runner", 2),
        ('raise ValueError("mine")', "__main__", 2),
        ('raise ValueError("of a worker")', "grain._src.python.dataset", 2),
        ('raise ValueError("of a library")', "scipy.stats", 1),
        ("np.zeros(2) + np.zeros(3)", "pddm_jax.evaluate.metrics", 1),
        ("np.zeros((2, 3)) @ np.zeros((2, 3))", "pddm_jax.evaluate.metrics", 1),
        ("np.concatenate([])", "experiments.runner", 1),
        ("np.stack([np.zeros(2), np.zeros(3)])", "experiments.runner", 1),
        ("jnp.reshape(np.zeros(5), (2, 3))", "pddm_jax.evaluate.metrics", 1),
        ("a, b = 1, 2, 3", "pddm_jax.evaluate.metrics", 1),
        ("int('x')", "pddm_jax.evaluate.metrics", 1),
        ("[].index(3)", "pddm_jax.evaluate.metrics", 1),
        (
            "try:\n  np.load(folder)\nexcept OSError as e:\n  raise ValueError('--x is a folder') from e",
            "pddm_jax.data",
            2,
        ),
        (
            "try:\n  int('x')\nexcept ValueError as e:\n  raise ValueError('--x') from e",
            "pddm_jax.system.cli",
            2,
        ),
    ],
)
def test_only_what_the_project_refuses_is_the_users_mistake(code, module, code_of, tmp_path):
    error = raised(code, module, tmp_path)
    assert verdict(error, "--batch")[0] == code_of
    assert ("(unexpected error, probably a bug" in verdict(error, "--batch")[1]) == (code_of == 1)


def test_what_a_library_raises_from_a_mistake_is_one():
    of_library = raised('raise ValueError("wrapped")', "scipy.stats", None)
    of_library.__cause__ = raised('raise ValueError("data.root")', "pddm_jax.data", None)
    assert verdict(of_library, "--batch")[0] == 2


def test_the_home_of_nobody_is_named():
    with pytest.raises(ValueError, match=r"--out: no home folder is known for ~nobody-of-this-name/x"):
        given_path("--out", "~nobody-of-this-name/x")


def test_files_of_flags(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"--x: there is no file {tmp_path}/x"):
        check_file("--x", tmp_path / "x")
    with pytest.raises(IsADirectoryError, match=r"--x: .* is a folder: expected a file"):
        check_file("--x", tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path(os.devnull)):
            with pytest.raises(IsADirectoryError, match=r"--x: .* is not a regular file: expected a file"):
                check_file("--x", path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match="--x: Too many levels"):
        check_file("--x", tmp_path / "loop")


def test_one_line_keeps_what_can_be_printed():
    assert one_line("größer  é 字\r\n\n\tx\udcff") == "größer  é 字 x\\udcff"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["p"], False),
        (["p", "--debug"], True),
        (["p", "-debug=true"], True),
        (["p", "--debug", "--nodebug"], False),
        (["p", "debug"], False),
        (["p", "--workdir=debug"], False),
    ],
)
def test_debug_is_known_before_flags_are_parsed(arguments, wanted):
    assert wants_debug(arguments) == wanted


def test_paths_of_flags(tmp_path):
    for text in ("", "  "):
        with pytest.raises(ValueError, match="--out must not be empty"):
            given_path("--out", text)
    assert given_path("--out", "~/x").is_absolute()
    file = tmp_path / "file"
    file.touch()
    check_file("--x", file)
    check_folder("--x", tmp_path / "a" / "b")
    for path in (file, file / "below", file / "below" / "it"):
        with pytest.raises(NotADirectoryError, match=f"--x: {file} is not a folder"):
            check_folder("--x", path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="--x: "):
        check_folder("--x", tmp_path / "dangling")
    with pytest.raises(OSError, match="--x: File name too long"):
        check_folder("--x", tmp_path / ("x" * 300))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "dangling"}


def command(called, **named):
    return cli.Command(lambda rest: called.append(rest), lambda: None, "--batch", "go on", **named)


def test_wrong_flags_are_found_before_the_work_begins():
    def check(arguments):
        raise ValueError(f"--out: {arguments}")

    called = []
    with pytest.raises(ValueError, match=r"--out: \['prog'\]"):
        command(called, check=check).run(["prog"])
    assert not called
    command(called).run(["prog"])
    assert called == [["prog"]]


@pytest.mark.parametrize("number", signals.ENDING)
def test_a_signal_ends_a_command_that_does_not_handle_it(number, capsys):
    before, ended = signal.getsignal(number), []
    struck = dataclasses.replace(command([], ended="resumes"), main=lambda _: signal.raise_signal(number))
    with pytest.raises(signals.Ended) as caught:
        struck.run(["prog"])
    assert caught.value.code == 143
    assert capsys.readouterr().err == f"ended by {signal.Signals(number).name}: resumes\n"
    assert signal.getsignal(number) == before
    command(ended).run(["prog"])  # without `ended` the handlers are left to the command
    assert signal.getsignal(number) == before


def test_a_distributed_command_has_the_flags_of_several_processes(monkeypatch):
    values, joined = flags.FlagValues(), []
    monkeypatch.setattr(cli.flags, "FLAGS", values)
    monkeypatch.setattr(cli.peers, "join", lambda *given: joined.append(given))
    define, called = partial(flags.DEFINE_integer, "batch", 1, "", flag_values=values), []
    for name in ("bool", "string", "integer"):
        defined = getattr(flags, f"DEFINE_{name}")
        monkeypatch.setattr(cli.flags, f"DEFINE_{name}", partial(defined, flag_values=values))
    distributed = dataclasses.replace(command(called, distributed=True), define=define)
    distributed.define_flags()
    values(["prog", "--distributed", "--coordinator=h:1", "--num_processes=2", "--process_id=2"])
    with pytest.raises(ValueError, match="--process_id must be below --num_processes, 2, got 2"):
        distributed.run(["prog"])
    values(["prog", "--distributed", "--coordinator=h:1", "--num_processes=2", "--process_id=1"])
    distributed.run(["prog"])
    assert (joined, called) == ([("h:1", 2, 1)], [["prog"]])


CODE = """
import json, sys, threading
from absl import flags, logging
from pddm_jax.system import cli

def define():
    flags.DEFINE_string("kind", None, "")

def main(_):
    kinds = {"user": ValueError("yours"), "bug": KeyError("ours"), "stop": KeyboardInterrupt()}
    def fail():
        raise RuntimeError("in a thread")
    thread = threading.Thread(target=fail)
    thread.start(); thread.join()
    try:
        fail()
    except RuntimeError:
        logging.exception("logged")
    raise kinds[flags.FLAGS.kind]

found = []
for number, line in enumerate(json.loads(sys.argv[1])):
    sys.argv = ["prog", *line]
    try:
        cli.launch(cli.Command(main, define, "--batch", "go on"))
    except SystemExit as end:
        print(f"exit {end.code}", file=sys.stderr)
    for name in ("debug", "kind"):
        delattr(flags.FLAGS, name)
"""


def test_a_command_ends_with_one_line_and_its_code(python):
    lines = [["--kind=user"], ["--kind=bug"], ["--kind=stop"], ["--knd=x"], ["--kind=x", "more"]]
    status, _, err = python("-c", CODE, json.dumps(lines))
    assert status == 0, err
    assert "Traceback" not in err
    told = [line for line in err.splitlines() if line.startswith(("error: ", "interrupted: ", "exit "))]
    assert told == [
        *("error: yours", "exit 2"),
        "error: KeyError: 'ours' (unexpected error, probably a bug: run with --debug for the traceback, "
        "and report it)",
        *("exit 1", "interrupted: go on", "exit 130"),
        *("error: Unknown command line flag 'knd'", "exit 2"),
        *("error: unknown argument 'more'", "exit 2"),
    ]
    assert err.count("warning: a thread ended: RuntimeError: in a thread") == 3
    status, _, err = python("-c", CODE, json.dumps([["--kind=user", "--debug"]]))
    assert "Traceback" in err
    assert "ValueError: yours" in err
    assert err.splitlines()[-2:] == ["error: yours", "exit 2"]


ABANDONED = """
import asyncio
from pddm_jax.system import cli

async def fail():
    raise ValueError("of the task [tensorstore_spec=...]")

global_tasks = []

def main(_):
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(fail())]
    loop.run_until_complete(asyncio.wait(tasks))
    {keep}
    raise ValueError("of the command")

cli.launch(cli.Command(main, lambda: None, "nothing", "go on"))
"""


@pytest.mark.parametrize("keep", ["pass", "global_tasks.extend(tasks)"], ids=["traceback", "module"])
def test_a_failed_task_that_lives_as_long_as_the_error_of_the_command_says_nothing(python, keep):
    status, _, err = python("-c", ABANDONED.format(keep=keep))
    assert (status, err) == (2, "error: of the command\n")
