"""What SIGTERM, SIGHUP and Ctrl-C do to a command.

Before there is a state to save, SIGTERM and SIGHUP end the command in one line with status 143, as shells
report it. During training they are noted, the step is finished and saved, and the status is 0. It is 0 too
once all is saved. A first Ctrl-C raises KeyboardInterrupt, a second ends the process at once.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import jax

from pddm_jax.system.console import mute, tell

SIGHUP = tuple(number for number in [getattr(signal, "SIGHUP", None)] if number is not None)
"""None where the system has no such signal."""

ENDING = (signal.SIGTERM, *SIGHUP)

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
    """What to do at SIGTERM and SIGHUP, until `back`; one that is ignored, as by nohup, stays ignored.

    Outside of the main thread, where Python has no handlers, nothing is listened for.

    Args:
        handler: of the signals.
        numbers: of the signals.
        alone: whether this process may act on them alone; else all do, at the step that they agree on.

    Attributes:
        name: of the signal that came; empty where none did.
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

    def came(self) -> str:
        """The name of the signal on which this process may act alone; empty where none came."""
        return self.name if self._alone else ""

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
        return Listener(lambda number, frame: os.kill(os.getpid(), signal.SIGTERM), SIGHUP, alone=False)
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
        if _can_handle(signal.SIGINT):
            signal.signal(signal.SIGINT, self)
        return self

    def tell(self) -> None:
        """The line, once."""
        if not self._told:
            self._told = True
            tell(self._text)
            if sys.stdout is not None:
                sys.stdout.flush()


def _can_handle(number: int) -> bool:
    """Whether a signal can be handled here, and given back: Python cannot give back a handler of C."""
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
            if error.args and error.args[0] == errno.EIO:  # of a file or a pipe another one
                return True
    return False
