"""The first things that a command does, before it loads what takes a second: it imports nothing of that.

`python -m pddm_jax.X` loads `pddm_jax/__init__` first, and JAX with it. A program that only imports the
package keeps its signals and descriptors as they are.
"""

import os
import signal
import sys
from types import FrameType


def begin(package: str) -> None:
    """Prepare this process where it was started by `python -m PACKAGE.MODULE`.

    A Ctrl-C while modules are loaded ends it in one line. Standard streams that are closed lead nowhere:
    else the first file that is opened would take their place, and what is printed.
    """
    if not _module().startswith(f"{package}."):
        return
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _module() -> str:
    """The module that `python -m` runs, while Python looks for it; else empty."""
    if sys.argv[:1] != ["-m"]:
        return ""
    word = sys.orig_argv[-len(sys.argv)]  # the arguments of the command follow it
    return word.partition("m")[2] if word.startswith("-") else word


def _end(number: int, frame: FrameType | None) -> None:
    try:
        os.write(2, b"interrupted: nothing was begun; give the same command again\n")
    finally:
        os._exit(130)


def open_streams() -> None:
    """Let each standard stream that is closed lead nowhere."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(nowhere, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
