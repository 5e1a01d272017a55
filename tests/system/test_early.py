"""Commands while they import their modules, and with closed standard streams."""

import io
import signal
import sys

import pytest

from pddm_jax.system import console, early

INTERRUPTED = "interrupted: nothing was begun; give the same command again\n"


@pytest.mark.parametrize("module", ["experiments.quickstart", "pddm_jax.embed", "pddm_jax.data.prepare"])
def test_ctrl_c_while_modules_are_loaded_is_one_line(module, tmp_path, python):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    status, out, err = python("-m", module, "--help", PYTHONPATH=str(tmp_path))
    assert (status, out, err) == (130, "", INTERRUPTED)


@pytest.mark.parametrize(
    ("command", "begins"),
    [
        (["python", "-m", "pddm_jax.embed", "-m", "x"], True),
        (["python", "-X", "dev", "-Im", "pddm_jax.embed"], True),
        (["python", "-mpddm_jax.embed", "a"], True),
        (["python", "-m", "pddm_jax_more.embed"], False),
        (["python", "-m", "mine", "pddm_jax.embed"], False),
        (["python", "-m", "mine", "-m", "pddm_jax.embed"], False),
    ],
)
def test_only_commands_of_the_package_begin(command, begins, monkeypatch):
    module = next(number for number, word in enumerate(command) if "m" in word and word[0] == "-")
    rest = command[module + (1 if len(command[module]) > 3 else 2) :]
    monkeypatch.setattr(sys, "orig_argv", command)
    monkeypatch.setattr(sys, "argv", ["-m", *rest])
    found = []
    monkeypatch.setattr(early, "open_streams", lambda: found.append("streams"))
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    monkeypatch.setattr(signal, "signal", lambda number, handler: found.append(number))
    early.begin("pddm_jax")
    assert found == (["streams", signal.SIGINT] if begins else [])
    found.clear()
    monkeypatch.setattr(sys, "argv", ["script.py", "pddm_jax.embed"])
    early.begin("pddm_jax")
    assert not found


def test_an_interrupt_that_is_ignored_stays_so(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "pddm_jax.embed"])
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("nohup"))
    early.begin("pddm_jax")


CLOSED = """
import os, runpy, sys
for number in (0, 1, 2):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
runpy.run_path(sys.argv[1])["open_streams"]()
for number in (0, 1, 2):
    assert os.fstat(number).st_rdev == os.stat(os.devnull).st_rdev
print("x", file=sys.stderr)
print("x", flush=True)
assert open(sys.argv[2], "w").fileno() > 2
open(sys.argv[2], "w").write("done")
"""


def test_closed_streams_lead_nowhere(tmp_path, python):
    python("-c", CLOSED, early.__file__, tmp_path / "told")
    assert (tmp_path / "told").read_text() == "done"


def test_streams_that_are_open_stay():
    before = sys.stdin, sys.stdout, sys.stderr
    early.open_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before


def test_nothing_is_told_where_stderr_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    console.print_line("x")
    file = io.StringIO()
    file.close()
    monkeypatch.setattr(sys, "stderr", file)
    console.print_line("x")
