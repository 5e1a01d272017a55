"""Exit codes, one-line errors and --debug: what every command of the project does with an exception.

Exit codes: 0, done, or stopped by a signal with everything saved; 1, not the user's mistake (training
diverged, no memory, no space, a bug); 2, the user's mistake (a flag, a config, a file); 130, Ctrl-C.
"""

import dis
import errno
import logging as python_logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from absl import app, flags, logging

from pddm_jax.system.console import tell
from pddm_jax.system.early import open_streams
from pddm_jax.system.quiet import Quiet
from pddm_jax.system.regular import open_regular
from pddm_jax.system.signals import Interrupts

flags.disclaim_key_flags()  # so that --help of a command shows the flags that are defined here

MISHAP, MISTAKE, INTERRUPTED = 1, 2, 130

MACHINE = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE", "EPIPE", "ESTALE", "EAGAIN", "ETIMEDOUT")
    if hasattr(errno, name)
}
"""Error numbers of an OSError that the machine is to blame for, not the user."""

PROJECT = "pddm_jax", "experiments", "__main__"
"""Packages whose ValueErrors are of what the user has given, and the command itself."""

HANDING_ON = "grain", "concurrent", "multiprocessing"
"""Packages that raise again what a process of the project has raised, without its traceback."""
LONGEST = 1800
"""Characters of an error; a value on the command line may be of any length."""

MAX_WORKERS = 256
"""Processes that read images, at most: each takes more than 100 MB."""


@dataclass(frozen=True)
class Command:
    """What `launch` runs.

    Attributes:
        main: the command itself; takes what flags leave of the command line, the program's name first.
        define: defines its flags.
        parse: parses the command line and returns what flags leave of it.
        lower: what to lower when memory runs out.
        interrupted: what a user can do after Ctrl-C.
        rest: whether arguments beside flags are allowed.
    """

    main: Callable[[list[str]], None]
    define: Callable[[], None]
    lower: str
    interrupted: str
    parse: Callable[[list[str]], list[str]] = flags.FLAGS
    rest: bool = False

    def parsed(self, arguments: list[str]) -> list[str]:
        """What flags leave of the command line; ValueError for a slip in it."""
        try:
            rest = self.parse(arguments)
        except SystemExit:  # --help and its kin, after which absl exits with 1
            raise SystemExit(0) from None
        except (flags.Error, OSError) as error:
            missing = re.fullmatch(r"flag --(\w+)=None: .* must have a value other than None\.", str(error))
            raise ValueError(f"--{missing[1]} must be given" if missing else str(error)) from error
        if len(rest) > 1 and not self.rest:
            raise ValueError(f"unknown argument {rest[1]!r}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return rest


def launch(command: Command) -> None:
    """Define and parse the flags, run the command, and exit; an exception is one line, without traceback.

    With --debug the traceback stands above that line, and likewise for exceptions of threads and for
    those that are logged.
    """
    open_streams()
    debug, interrupts = wants_debug(sys.argv), Interrupts(command.interrupted).listen()
    try:
        _quiet(debug)
        flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
        command.define()
        with nullcontext() if debug else Quiet():
            app.run(command.main, flags_parser=command.parsed)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        interrupts.tell()
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, line = verdict(error, command.lower)
        tell(line)
        sys.exit(code)


def verdict(error: Exception, lower: str) -> tuple[int, str]:
    """The exit code of an exception and the line that is printed for it."""
    text, kind = _clipped(one_line(str(error)), LONGEST), type(error).__name__
    told = f"{kind}: {text}" if text else kind
    if is_out_of_memory(error):
        detail = _clipped(one_line(str(error).strip().split("\n", 1)[0]) or kind)
        return MISHAP, f"error: out of memory ({detail}): lower {lower}"
    if isinstance(error, OSError):
        return MISHAP if error.errno in MACHINE else MISTAKE, f"error: {text or told}"
    if isinstance(error, flags.Error | app.UsageError) or _is_mistake(error):
        return MISTAKE, f"error: {text or told}"
    if isinstance(error, FloatingPointError):
        return MISHAP, f"error: {text or told}"
    hint = "this is a bug, or an input that nobody thought of: run with --debug for the traceback"
    return MISHAP, f"error: {_clipped(told)} ({hint})"


def _is_mistake(error: BaseException | None) -> bool:
    """Whether it, or an error that caused it, is a ValueError that the project raises of what is given."""
    while error is not None:
        if isinstance(error, ValueError) and (error.__traceback__ is None or _is_raised_here(error)):
            return True
        error = error.__cause__
    return False


def _is_raised_here(error: BaseException) -> bool:
    """Whether a `raise` of the project made an error, not what the project calls: NumPy, JAX or Python."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    frame = trace.tb_frame
    if str(frame.f_globals.get("__name__")).partition(".")[0] not in (*PROJECT, *HANDING_ON):
        return False
    return frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def is_out_of_memory(error: Exception) -> bool:
    """Whether the host or a device has run out of memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def one_line(text: str) -> str:
    """The text with line breaks as spaces and other characters that cannot be printed as escapes."""
    spaced = " ".join(part.strip() for part in text.splitlines() if part.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in spaced)


def given_path(name: str, text: str) -> Path:
    """The path of a flag, with `~` resolved; ValueError where it is empty."""
    if not text.strip():
        raise ValueError(f"{name} must not be empty: give the path of a file or folder")
    return expanded(name, text)


def expanded(name: str, text: str) -> Path:
    """A path with `~` resolved; ValueError that names the flag or field where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name}: no home folder is known for {text}: give the whole path") from error


def check_file(name: str, path: Path) -> None:
    """Raise an OSError that names the flag or field unless there is a regular file that can be read."""
    try:
        open_regular(path).close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{name}: there is no file {path}") from error
    except PermissionError as error:
        raise PermissionError(f"{name}: no permission to read {path}") from error
    except ValueError as error:
        kind = "a folder" if path.is_dir() else "no regular file"
        raise IsADirectoryError(f"{name}: {path} is {kind}, and must be a file") from error
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}: {one_line(str(path))}") from error


def check_folder(name: str, path: Path, writes: bool = True) -> None:
    """Raise an OSError that names the flag unless `path` is a folder, or can become one, to write into.

    Without `writes` it may be one that can only be read.
    """
    for there in (path.absolute(), *path.absolute().parents):
        try:
            there.lstat()
            break
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise OSError(error.errno, f"{name}: {error.strerror}: {one_line(str(path))}") from None
    if not there.is_dir():
        raise NotADirectoryError(f"{name}: {there} is not a folder: choose another {name}")
    if writes and not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{name}: no permission to write in {there}: choose another {name}")


def define_distributed_flags() -> None:
    """--distributed, and the flags that say where the processes are if JAX cannot find them."""
    flags.DEFINE_bool("distributed", False, "Join the other processes (found by JAX on a pod).")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where JAX cannot find it.")
    flags.DEFINE_integer("num_processes", None, "How many processes, likewise.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this one is, likewise.", lower_bound=0)


def check_distributed_flags() -> None:
    """Raise a ValueError where the flags of several processes do not fit each other."""
    coordinator, count, place = (
        flags.FLAGS[name].value for name in ("coordinator", "num_processes", "process_id")
    )
    given = [value is not None for value in (coordinator, count, place)]
    if any(given) and not flags.FLAGS.distributed:
        raise ValueError("--distributed must be given with --coordinator, --num_processes, --process_id")
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if count is not None and place is not None and place >= count:
        raise ValueError(f"--process_id must be below --num_processes, {count}, got {place}")


def wants_debug(arguments: list[str]) -> bool:
    """Whether --debug is among the arguments; asked before they are parsed, which may fail."""
    said = [name.lstrip("-").lower() for name in arguments if name.startswith("-")]
    words = {"debug": True, "debug=true": True, "debug=1": True, "nodebug": False, "debug=false": False}
    return next((words[word] for word in reversed(said) if word in words), False)


class _Formatter(python_logging.Formatter):
    """LEVEL: message; the traceback of a logged exception only with --debug."""

    def __init__(self, debug: bool) -> None:
        super().__init__("%(levelname)s: %(message)s")
        self._debug = debug

    def format(self, record: python_logging.LogRecord) -> str:
        if self._debug:
            return super().format(record)
        return f"{record.levelname}: {one_line(record.getMessage())}"


def _quiet(debug: bool) -> None:
    """Settle how absl logs, and keep tracebacks of threads and finalizers off the terminal."""
    logging.get_absl_handler().setFormatter(_Formatter(debug))
    if debug:
        return

    def of_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_type is not SystemExit:
            words = _clipped(one_line(str(told.exc_value)))
            tell(f"warning: a thread ended: {told.exc_type.__name__}: {words}")

    threading.excepthook = of_thread
    sys.unraisablehook = lambda told: None


def _clipped(text: str, length: int = 400) -> str:
    return text if len(text) <= length else f"{text[:length]} ..."
