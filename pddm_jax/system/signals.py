"""Handlers of SIGTERM, SIGHUP and Ctrl-C.

Before there is a state to save, SIGTERM and SIGHUP end the command with one line and status 143, the status
that shells report. During training they are only recorded: the step is finished and saved, with status 0.
The first Ctrl-C raises KeyboardInterrupt, the second ends the process at once.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax

from pddm_jax.system.console import mute, print_line

SIGHUP = tuple(number for number in [getattr(signal, "SIGHUP", None)] if number is not None)
"""SIGHUP, if the system has it."""

ENDING = (signal.SIGTERM, *SIGHUP)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Preempted(SystemExit):
    """SIGTERM or SIGHUP was received and the state is saved: exits with status 0 unless caught.

    Attributes:
        name: of the signal.
    """

    def __init__(self, code: int = 0, name: str = "SIGTERM") -> None:
        super().__init__(code)
        self.name = name


class Ended(SystemExit):
    """SIGTERM or SIGHUP was received before there was anything to save; the line is already written."""


class Listener:
    """A handler of signals, installed until `restore`; an ignored signal, as by nohup, stays ignored.

    Outside of the main thread, where Python allows no handlers, it does nothing.

    Args:
        handler: called with the number of the signal and the frame.
        numbers: of the signals.
        alone: whether this process may act alone; otherwise all processes act at the step they agree on.

    Attributes:
        name: of the signal that was received; empty if none was.
    """

    def __init__(
        self, handler: Callable[[int, FrameType | None], Any], numbers: tuple[int, ...], alone: bool = True
    ) -> None:
        self.name = ""
        self._former: dict[int, Any] = {}
        self._act, self._alone = handler, alone
        for number in numbers:
            if _can_handle(number):
                self._former[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        if number in SIGHUP and _terminal_is_gone():
            mute()
        self._act(number, frame)

    def received(self) -> str:
        """The name of a received signal on which this process may act alone; empty if there is none."""
        return self.name if self._alone else ""

    def restore(self) -> None:
        """Restore the former handlers."""
        for number, former in self._former.items():
            signal.signal(number, former)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def deferred() -> Listener:
    """Only record the signals. In a distributed run JAX handles SIGTERM, and SIGHUP is turned into it."""
    if jax.distributed.is_initialized():
        return Listener(lambda number, frame: os.kill(os.getpid(), signal.SIGTERM), SIGHUP, alone=False)
    return Listener(lambda number, frame: None, ENDING)


def exit_on_signal(text: str, code: int) -> Listener:
    """Exit with a status and the line `ended by SIGNAL: text`, except in a distributed run."""

    def end(number: int, frame: FrameType | None) -> None:
        print_line(f"ended by {signal.Signals(number).name}: {text}")
        raise Ended(code)

    return Listener(end, () if jax.distributed.is_initialized() else ENDING)


class Interrupts:
    """A handler of Ctrl-C: the first raises KeyboardInterrupt, the second writes a line and exits."""

    def __init__(self, text: str) -> None:
        self._text = f"interrupted: {text}"
        self._printed = False
        self._received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        if self._received:
            self.announce()
            os._exit(130)
        self._received = True
        raise KeyboardInterrupt

    def listen(self) -> "Interrupts":
        """Install the handler, unless SIGINT is ignored."""
        if _can_handle(signal.SIGINT):
            signal.signal(signal.SIGINT, self)
        return self

    def announce(self) -> None:
        """Write the line, once."""
        if not self._printed:
            self._printed = True
            print_line(self._text)
            if sys.stdout is not None:
                sys.stdout.flush()


def _can_handle(number: int) -> bool:
    """Whether a handler can be installed here and the former one restored, which C handlers cannot be."""
    here = threading.current_thread() is threading.main_thread()
    return here and signal.getsignal(number) not in (signal.SIG_IGN, None)


def _terminal_is_gone() -> bool:
    try:
        import termios  # which Windows does not have
    except ImportError:
        return False
    for number in (1, 2):
        try:
            termios.tcgetattr(number)
        except termios.error as error:
            if error.args and error.args[0] == errno.EIO:  # a file or a pipe gives another error
                return True
    return False
