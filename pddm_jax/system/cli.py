"""The shell of every command: flags, signals, several processes, exit codes, one-line errors and --debug.

A command of the project is a module with a `Command`, for `python -m MODULE`:

    COMMAND = cli.Command(main, define_flags, "--batch", "the same command resumes")

    if __name__ == "__main__":
        cli.launch(COMMAND)

See `pddm_jax.system.errors` for the exit codes.
"""

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

from pddm_jax.system import peers, signals
from pddm_jax.system.console import one_line, print_line
from pddm_jax.system.early import open_streams
from pddm_jax.system.errors import INTERRUPTED, clipped, verdict
from pddm_jax.system.quiet import SuppressLogs
from pddm_jax.system.regular import open_regular

flags.disclaim_key_flags()  # so that --help of a command shows the flags that are defined here

MAX_WORKERS = 256
"""Processes that read images, at most: each takes more than 100 MB."""


@dataclass(frozen=True)
class Command:
    """A command: its flags, what it does, and what its messages say.

    `launch(command)` defines and parses the flags, calls `check(arguments)`, joins the other processes of a
    `distributed` command, and calls `main(arguments)`. The arguments are the name of the program and what
    flags leave of the command line.

    Attributes:
        main: does the work.
        define: defines the flags of the command.
        lower: what to lower if memory runs out, as `--batch`.
        interrupted: what to do after Ctrl-C; the line is `interrupted: TEXT`.
        parse: parses the command line and returns the arguments.
        rest: whether arguments that are no flags are allowed.
        check: raises for wrong values of flags, before JAX starts.
        distributed: whether the command has the flags of several processes.
        ended: what to do after SIGTERM or SIGHUP, which end `main` with status 143 and the line
            `ended by SIGNAL: TEXT`; None = the command handles these signals itself.
    """

    main: Callable[[list[str]], None]
    define: Callable[[], None]
    lower: str
    interrupted: str
    parse: Callable[[list[str]], list[str]] = flags.FLAGS
    rest: bool = False
    check: Callable[[list[str]], None] = lambda arguments: None
    distributed: bool = False
    ended: str | None = None

    def define_flags(self) -> None:
        """Define all flags of the command."""
        flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
        self.define()
        if self.distributed:
            define_distributed_flags()

    def parsed(self, arguments: list[str]) -> list[str]:
        """What flags leave of the command line; ValueError for a mistake in it."""
        try:
            rest = self.parse(arguments)
        except SystemExit:  # --help and the like, after which absl exits with 1
            raise SystemExit(0) from None
        except (flags.Error, OSError) as error:
            missing = re.fullmatch(r"flag --(\w+)=None: .* must have a value other than None\.", str(error))
            raise ValueError(f"--{missing[1]} must be given" if missing else str(error)) from error
        if len(rest) > 1 and not self.rest:
            raise ValueError(f"unknown argument {rest[1]!r}")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        return rest

    def run(self, arguments: list[str]) -> None:
        """Check the flags, join the other processes if there are any, and do the work."""
        self.check(arguments)
        if self.distributed:
            check_distributed_flags()
            if flags.FLAGS.distributed:
                peers.join(flags.FLAGS.coordinator, flags.FLAGS.num_processes, flags.FLAGS.process_id)
        with (
            peers.watched(),
            nullcontext() if self.ended is None else signals.exit_on_signal(self.ended, 143),
        ):
            self.main(arguments)


def launch(command: Command) -> None:
    """Define and parse the flags, run the command, and exit; an exception gives one line, no traceback.

    --debug shows the tracebacks of that exception, of exceptions in threads and of logged ones.
    """
    open_streams()
    debug, interrupts = wants_debug(sys.argv), signals.Interrupts(command.interrupted).listen()
    try:
        _quiet(debug)
        command.define_flags()
        if not debug:
            # Never left: tasks that Orbax abandons may only report their errors as the process ends.
            SuppressLogs().__enter__()
        app.run(command.run, flags_parser=command.parsed)
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        interrupts.announce()
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, line = verdict(error, command.lower)
        print_line(line)
        sys.exit(code)


def given_path(name: str, text: str) -> Path:
    """The path of a flag, with `~` resolved; ValueError if it is empty."""
    if not text.strip():
        raise ValueError(f"{name} must not be empty: give the path of a file or folder")
    return expanded(name, text)


def expanded(name: str, text: str) -> Path:
    """A path with `~` resolved; ValueError that names the flag or field if there is no such user."""
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
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise IsADirectoryError(f"{name}: {path} is {kind}: expected a file") from error
    except OSError as error:
        raise OSError(error.errno, f"{name}: {error.strerror}: {one_line(str(path))}") from error


def check_folder(name: str, path: Path, writes: bool = True) -> None:
    """Raise an OSError that names the flag unless `path` is a folder, or can be created as one.

    It must be writable unless `writes` is false.
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
    """Define --distributed and the flags that locate the processes if JAX cannot find them."""
    flags.DEFINE_bool("distributed", False, "Join the other processes (found by JAX on a pod).")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if JAX cannot tell.")
    flags.DEFINE_integer("num_processes", None, "Number of processes, if JAX cannot tell.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Index of this process, if JAX cannot tell.", lower_bound=0)


def check_distributed_flags() -> None:
    """Raise a ValueError if the flags of several processes contradict each other."""
    coordinator, count, place = (
        flags.FLAGS[name].value for name in ("coordinator", "num_processes", "process_id")
    )
    given = [value is not None for value in (coordinator, count, place)]
    if any(given) and not flags.FLAGS.distributed:
        raise ValueError(
            "--coordinator, --num_processes and --process_id need --distributed: add --distributed"
        )
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if count is not None and place is not None and place >= count:
        raise ValueError(f"--process_id must be below --num_processes, {count}, got {place}")


def wants_debug(arguments: list[str]) -> bool:
    """Whether --debug is among the arguments; needed before they are parsed, since that may fail."""
    options = [name.lstrip("-").lower() for name in arguments if name.startswith("-")]
    words = {"debug": True, "debug=true": True, "debug=1": True, "nodebug": False, "debug=false": False}
    return next((words[word] for word in reversed(options) if word in words), False)


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
    """Set the format of absl's log, and hide tracebacks of threads and finalizers unless `debug`."""
    logging.get_absl_handler().setFormatter(_Formatter(debug))
    if debug:
        return

    threading.excepthook = _tell_thread_error
    sys.unraisablehook = lambda unraisable: None


def _tell_thread_error(ended: threading.ExceptHookArgs) -> None:
    """Write one line about an exception in a thread."""
    if ended.exc_type is not SystemExit:
        text = clipped(one_line(str(ended.exc_value)))
        print_line(f"warning: a thread ended: {ended.exc_type.__name__}: {text}")
