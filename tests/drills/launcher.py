"""Commands as a user runs them, each in a fork of one process that has loaded what they load."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT, Fork

HUNG = 240
"""Seconds after which a command counts as hung."""


class Ended(NamedTuple):
    """How a command ended; `status` None: it hung and was killed."""

    status: int | None
    out: str
    err: str
    seconds: float


class Launcher:
    """Starts commands and waits for them; they share a cache of compilations and of glyphs."""

    def __init__(self, server: subprocess.Popen, folder: Path, environment: dict[str, str]) -> None:
        self._server, self._folder, self._environment = server, folder, environment
        self.pid = server.pid

    def start(self, command: list[str], **other: str) -> Fork:
        """`start([module, arguments...], VARIABLE=VALUE...)`: running, with more environment."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        module, *arguments = map(str, command)
        return Fork(self._server, module, arguments, self._environment | other, folder)

    def end(self, process: Fork, since: float) -> Ended:
        """Wait for its end, or for so long that it counts as hung."""
        hung = False
        try:
            process.wait(HUNG)
        except subprocess.TimeoutExpired:
            hung = True
            process.kill()
        out, err = process.communicate(10)
        return Ended(None if hung else process.returncode, out, err, time.monotonic() - since)

    def run(self, command: list[str], **other: str) -> Ended:
        """Start a command and wait for it."""
        since = time.monotonic()
        return self.end(self.start(command, **other), since)


@contextmanager
def launcher(folder: Path):
    """A launcher whose files lie in `folder`."""
    environment = os.environ | {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # else each command starts itself anew with it
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "jax")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "XLA_FLAGS": "--xla_backend_optimization_level=1 --xla_force_host_platform_device_count=1",
    }
    (folder / "commands").mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.forked"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as server:
        yield Launcher(server, folder / "commands", environment)
        server.stdin.close()
