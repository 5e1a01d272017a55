"""What SIGTERM, SIGHUP and Ctrl-C do to a command.

Before there is a state to save, SIGTERM and SIGHUP end the command in one line with status 143, as shells
report it. During training they are noted, the step is finished and saved, and the status is 0. It is 0 too
once all is saved. A first Ctrl-C raises KeyboardInterrupt, a second ends the process at once.
"""

import os
import signal
import sys
import termios
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import jax

from pddm_jax.console import mute, tell

ENDING = (signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], Any] | int | None


class Preempted(SystemExit):
    """SIGTERM or SIGHUP came and the state is saved: ends the process with status 0 unless caught.

    Attributes:
        name: of the signal.
    """

    def __init__(self, code: int = 0, name: str = "SIGTERM") -> None:
        super().__init__(code)
        self.name = name


class Ended(SystemExit):
    """SIGTERM or SIGHUP came while there was nothing to save: told in one line."""


class Listener:
    """What to do at SIGTERM and SIGHUP, until `back`; one that is ignored, as by nohup, stays ignored."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any], numbers: tuple[int, ...]) -> None:
        self._came = ""
        self._former: dict[int, Any] = {}
        self._act = handler
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came = signal.Signals(number).name
        if number == signal.SIGHUP and _terminal_is_gone():
            mute()
        self._act(number, frame)

    def came(self) -> str:
        """The name of the signal that came; empty where none did."""
        return self._came

    def back(self) -> None:
        """Hand the signals back to who listened before."""
        for number, former in self._former.items():
            signal.signal(number, former)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.back()


def noted() -> Listener:
    """Only note the signals. Where processes are joined, SIGTERM is JAX's, and SIGHUP is turned into it."""
    if jax.distributed.is_initialized():
        return Listener(lambda number, frame: os.kill(os.getpid(), signal.SIGTERM), (signal.SIGHUP,))
    return Listener(lambda number, frame: None, ENDING)


def at_once(text: str, code: int) -> Listener:
    """End the command with this status and a line, `ended by SIGNAL: text`, unless processes are joined."""

    def end(number: int, frame: FrameType | None) -> None:
        tell(f"ended by {signal.Signals(number).name}: {text}")
        raise Ended(code)

    return Listener(end, () if jax.distributed.is_initialized() else ENDING)


class Interrupts:
    """A first Ctrl-C raises KeyboardInterrupt; a second writes one line and ends the process at once."""

    def __init__(self, text: str) -> None:
        self._text = f"interrupted: {text}"
        self._told = False
        self._came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a SIGINT."""
        if self._came:
            self.tell()
            os._exit(130)
        self._came = True
        raise KeyboardInterrupt

    def listen(self) -> Self:
        """Handle SIGINT from now on, unless it is ignored."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self)
        return self

    def tell(self) -> None:
        """The line, once."""
        if not self._told:
            self._told = True
            tell(self._text)
            sys.stdout.flush()


def _terminal_is_gone() -> bool:
    for number in (1, 2):
        try:
            termios.tcgetattr(number)
        except termios.error as error:
            if error.args and error.args[0] == 5:  # EIO; of a file or a pipe another one
                return True
    return False
