"""A lock on a folder by `flock`, so that one command at a time writes to it; a kill releases it."""

import errno
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import jax

from pddm_jax.system.agreement import from_first, share_errors
from pddm_jax.system.console import print_line
from pddm_jax.system.files import explain_errors, sweep

NAME = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}


FREED_WITHIN = 10.0
"""Seconds in which the processes that a killed command was about to start let go of its lock."""


class InUse(ValueError):
    """Another command writes to the folder."""


class Lock:
    """`with Lock(folder, "--workdir"):` holds FOLDER/.lock by `flock`, in process 0 for all processes.

    The file names the process that holds it, and is removed when the block ends; the folder too if the lock
    created it and it is empty. A file that a killed command left locks nothing. If the file system has no
    locks, a line says so and the block runs.

    Args:
        folder: created if it does not exist.
        flag: of the command that names the folder.
        file: of the lock, if not in the folder.

    Raises:
        InUse: another command holds it.
        NotWritten: the folder cannot be written.
    """

    def __init__(self, folder: Path, flag: str, file: Path | None = None) -> None:
        self._folder, self._flag = folder, flag
        self._path = file or folder / NAME
        self._file: int | None = None
        self._made = False

    def __enter__(self) -> "Lock":
        try:
            with share_errors():
                problem = self._take() if jax.process_index() == 0 else ""
            if problem := from_first(problem):
                raise InUse(problem)
        except BaseException:  # also by a signal
            self._abandon()
            raise
        return self

    def _take(self) -> str:
        """Take the lock; returns the problem if another process holds it."""
        with explain_errors(self._folder):
            self._made = not self._path.parent.is_dir()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            until = time.monotonic() + FREED_WITHIN
            while self._file is None:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_current(file):  # otherwise its holder has just removed it
                        self._file = file
                except OSError as error:
                    if not _is_left_behind(file, error) or time.monotonic() > until:
                        return self._refused(file, error)
                    time.sleep(0.02)
                finally:
                    if self._file is None:
                        os.close(file)
        _HELD.add(self)
        # The content is only for the message of other commands: a full disk does not prevent the lock.
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        if self._path.parent == self._folder:
            sweep(self._folder)
        return ""

    def _refused(self, file: int, error: OSError) -> str:
        holder = os.read(file, 1000)
        if error.errno in _UNSUPPORTED:
            print_line(f"{self._folder}: its file system has no locks: give it to one command at a time")
            return ""
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise error
        try:
            about = json.loads(holder)
            who = f"process {about['pid']} on {about['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return f"{self._folder} is in use by {who}: wait until it finishes, or choose another {self._flag}"

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def forget(self) -> None:
        """Release the lock in this process and leave the file where it is."""
        _HELD.discard(self)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._release()

    def _release(self) -> None:
        """Remove the file and release the lock; remove a folder that the lock created if it is empty."""
        try:
            with suppress(OSError):  # the disk is gone; the file that stays locks nothing
                self._path.unlink(missing_ok=True)
        finally:
            self.forget()
        if self._made:
            with suppress(OSError):  # it is not empty
                self._path.parent.rmdir()

    def _abandon(self) -> None:
        """Release a lock that was interrupted while it was taken."""
        if self._file is None and self._made:
            with suppress(OSError):  # there is no file, or another process holds it
                file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_current(file):
                        self._path.unlink()
                finally:
                    os.close(file)
            with suppress(OSError):  # it is not empty
                self._path.parent.rmdir()
        elif self._file is not None:
            self._release()


def _is_left_behind(file: int, error: OSError) -> bool:
    """Whether the holder was killed: a process that it was starting may keep the lock for a moment."""
    if error.errno not in (errno.EAGAIN, errno.EACCES):
        return False
    try:
        about = json.loads(os.pread(file, 1000, 0))
        if about["host"] != socket.gethostname():
            return False
        os.kill(about["pid"], 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return False
    return False


_HELD: set[Lock] = set()
"""The locks that this process holds."""


def _forget_all() -> None:
    for lock in [*_HELD]:
        lock.forget()


if hasattr(os, "register_at_fork"):
    # A forked process must not keep the locks when this process is killed.
    os.register_at_fork(after_in_child=_forget_all)
