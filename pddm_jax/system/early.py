"""Signals and standard streams of a command, set up before JAX is imported.

`python -m pddm_jax.X` imports `pddm_jax/__init__` first, and JAX with it, which takes a second; so this
module imports nothing but the standard library. A program that only imports the package keeps its signals
and file descriptors.
"""

import os
import signal
import sys
from types import FrameType


def begin(package: str) -> None:
    """Set up this process if it was started by `python -m PACKAGE.MODULE`.

    Ctrl-C during the imports ends it with one line. Closed standard streams are opened on the null device;
    otherwise the first file that is opened would take their descriptor, and receive what is printed.
    """
    if not _module().startswith(f"{package}."):
        return
    open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _module() -> str:
    """The module that `python -m` is about to run; empty if there is none."""
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
    """Open each closed standard stream on the null device."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor: this one
            os.set_inheritable(null, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
