"""What several test files share: small data on disk, and commands run as a user runs them."""

import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from packaging.version import Version

from pddm_jax.pddm import tiles

ROOT = Path(__file__).parents[1]
LIMIT = 600  # seconds after which a command counts as hung
# What tests compile runs once, what commands compile a few times. XLA_FLAGS="" compiles as users do.
SOONEST, SOONER = (f"--xla_backend_optimization_level={level}" for level in (0, 1))
SOONEST += " --xla_cpu_parallel_codegen_split_count=1"
if Version(version("jaxlib")) < Version("0.11"):  # which ends with an error for flags that it does not know
    SOONEST += " --xla_cpu_use_fusion_emitters=false"

# A shell starts what runs behind it deaf to Ctrl-C, and commands started from here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # likewise behind nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


# Arrays and compiled functions are not garbage in cycles: collecting less often takes a tenth less time.
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    """What is compiled is shared by all processes: those that share out the tests, and what these start."""
    os.environ.setdefault("XLA_FLAGS", SOONEST)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="jax-")
        config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def free_address():
    """HOST:PORT where processes that are started next can find each other."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return f"localhost:{found.getsockname()[1]}"


def write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="session")
def common(tmp_path_factory):
    """A folder of all processes that share out the tests."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def once(common):
    """`once(name, make)`: the folder of this name, after `make(folder)` in whichever process came first."""

    def once(name, make):
        folder, made = common / name, common / f"{name}.made"
        with (common / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one that failed
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def fashion_root(once):
    """IDX files of the full counts with one noisy pattern a class, and 200 images of test classes."""
    return once("fashion", write_fashion)


def write_fashion(root):
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 128, (10, 28, 28), dtype=np.uint8)
    train = np.arange(60_000) % 10
    test = np.arange(10_000) * 2 % 10
    test[:200] += 1
    for name, labels in (("train", train), ("t10k", test)):
        noise = rng.integers(0, 128, (len(labels), 1, 28), dtype=np.uint8)
        write_idx(root / f"{name}-images-idx3-ubyte", patterns[labels] + noise)
        write_idx(root / f"{name}-labels-idx1-ubyte", labels)


@pytest.fixture(scope="session")
def glyph_root(common):
    """Where the commands cache the rendering of the glyphs."""
    return common / "cache" / "pddm_jax"


@pytest.fixture
def few_tiles_a_step(monkeypatch):
    """Scores in steps of a few tiles, so that small data takes many of them."""
    monkeypatch.setattr(tiles, "STEP", 2**13)
    jax.clear_caches()
    yield
    jax.clear_caches()


class Fork:
    """A command that runs in a fork of `server` (tests/helpers/forked.py), like a `subprocess.Popen`."""

    def __init__(self, server, module, arguments, environment, folder):
        os.mkfifo(folder / "status")
        self.folder, self.returncode = folder, None
        self.status = os.open(folder / "status", os.O_RDONLY | os.O_NONBLOCK)
        print(json.dumps([module, arguments, environment, str(folder)]), file=server.stdin, flush=True)
        told = server.stdout.readline()
        assert told, "the process that forks has ended"
        self.pid = int(told)

    def poll(self, timeout=0):
        if self.returncode is None and select.select([self.status], [], [], timeout)[0]:
            self.returncode = int(os.read(self.status, 16) or 1)  # 1: what waited for it was killed
            os.close(self.status)
        return self.returncode

    def wait(self, timeout=None):
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.folder), timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return [(self.folder / name).read_text(encoding="utf-8") for name in ("out", "err")]

    def send_signal(self, number):
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it may end meanwhile
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


@pytest.fixture(scope="session")
def environment(common):
    """`environment(devices)`: what commands are started with; None says no number of devices."""
    flags = os.environ["XLA_FLAGS"].replace(SOONEST, SOONER)

    def environment(devices=1):
        said = f" --xla_force_host_platform_device_count={devices}" if devices else ""
        return os.environ | {
            "XDG_CACHE_HOME": str(common / "cache"),
            "JAX_PLATFORMS": "cpu",
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # else each command starts itself anew with it
            "XLA_FLAGS": f"{flags}{said}",
        }

    return environment


@pytest.fixture(scope="session")
def started():
    """All processes, of which those that are left over are killed."""
    started = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def start(environment, started, tmp_path_factory):
    """`start("experiments.x", ...)`: as `python -m experiments.x ...` from the root, running."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.forked"],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # else Ctrl-C in a terminal would end what tells of the commands' ends
    )

    def start(module, *arguments, devices=1):
        folder = tmp_path_factory.mktemp("command")
        process = Fork(server, module, [*map(str, arguments)], environment(devices), folder)
        started.append(process)
        return process

    with server:
        yield start


@pytest.fixture(scope="session")
def start_python(environment, started):
    """`start_python(...)`: a Python of its own. A variable of the environment that is None is taken out."""

    def start_python(*arguments, devices=1, **other):
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env={name: x for name, x in (environment(devices) | other).items() if x is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    return start_python


@pytest.fixture(scope="session")
def end():
    """`end(process)`: wait for it, and return (exit status, stdout, stderr)."""

    def end(process):
        try:
            out, err = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"still running after {LIMIT} s\n{out}\n{err}")
        return process.returncode, out, err

    return end


@pytest.fixture(scope="session")
def run_command(start, end):
    """`run_command("experiments.x", ...)`: start and end."""
    return lambda *arguments, **options: end(start(*arguments, **options))


@pytest.fixture(scope="session")
def python(start_python, end):
    """`python(...)`: a Python of its own, from start to end."""
    return lambda *arguments, **options: end(start_python(*arguments, **options))
