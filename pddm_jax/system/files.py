"""Atomic writes of files, sealed JSON, and one-line errors for files that cannot be written or read."""

import errno
import hashlib
import json
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_FULL_WORDS = "No space left", "os_error_code='28'", "Disk quota exceeded", "File too large"
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_PART = re.compile(r"\.[0-9a-f]{32}-.+")
SEAL = "sha256"
"""The field of a JSON object that holds the SHA-256 of its other fields."""


class NotWritten(OSError):
    """A file could not be written; the message says which one, why, and what to do."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def no_space(path: Path, kept: str) -> NotWritten:
    """The error of a full disk; `kept` names what is still intact."""
    return NotWritten(
        errno.ENOSPC,
        f"{path}: no space left (disk full or quota exceeded): {kept}; free space and repeat the command",
    )


def is_full(error: BaseException) -> bool:
    """Whether the disk is full, by the error number or, for errors of C++ code, by the message."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(words in str(error) for words in _FULL_WORDS)


@contextmanager
def explain_errors(path: Path, kept: str = "files completed earlier are intact") -> Iterator[None]:
    """Turn the error of a full or read-only disk into one line that names the path.

    Raises:
        NotWritten: in place of the OSError.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        if is_full(error):
            raise no_space(path, kept) from error
        if error.errno == errno.ENOTDIR:
            raise NotWritten(
                error.errno,
                f"{path} cannot be written: a parent path is a file, not a folder; choose another folder",
            ) from error
        if error.errno == errno.EISDIR:
            raise NotWritten(
                error.errno, f"{path} is a folder: expected a file; remove it and repeat the command"
            ) from error
        if error.errno in _CLOSED:
            reason = os.strerror(error.errno).lower()
            raise NotWritten(
                error.errno, f"{path} cannot be written: {reason}; choose another folder"
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` if the block does not raise.

    The file is synced before it is renamed, so that a power failure leaves the old or the new file intact.
    That waits for the disk: some milliseconds.
    """
    part = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    with explain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            _to_disk(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, if the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sweep(folder: Path) -> None:
    """Remove the temporary files of killed commands; only for the one command that writes there."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _PART.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


@contextmanager
def held(part: Path) -> Iterator[None]:
    """Lock a temporary file while it is written, so that `sweep_abandoned` leaves it alone."""
    with part.open("ab") as file:
        if fcntl is not None:
            with suppress(OSError):  # the file system has no locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def sweep_abandoned(folder: Path) -> None:
    """Remove the temporary files that killed writers left in a folder that several commands write to.

    A writer holds its file by `held`; the system frees it when the writer ends, however it ends.
    """
    if fcntl is None:
        return
    with suppress(OSError):
        for path in folder.iterdir():
            if not _PART.fullmatch(path.name):
                continue
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text, atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file by this value as indented JSON; ValueError if it holds a NaN or infinity."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if re.search("[\ud800-\udfff]", text):  # a path of bytes that are not UTF-8
        text = json.dumps(value, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def read_object(path: Path, todo: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        todo: what to do if it is damaged, for the message.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes(), parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder: expected a file; {todo}") from error
    except ValueError as error:
        found = "it is empty" if path.stat().st_size == 0 else f"it is not valid JSON: {_where(error)}"
        raise ValueError(f"{path} is damaged: {found}; {todo}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: it is nested too deeply; {todo}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, found {str(value)[:40]!r}; {todo}")
    return value


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object by `write_json`, with a digest of its fields as its last field."""
    write_json(path, {**value, SEAL: seal_of(value)})


def read_sealed(path: Path, todo: str) -> dict[str, Any]:
    """The object in a file that `write_sealed` wrote, without the digest.

    A file of an earlier version, without a digest, is not verified.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `read_object`, or the digest differs.
    """
    value = read_object(path, todo)
    if SEAL in value:
        expected = value.pop(SEAL)
        if expected != seal_of(value):
            raise ValueError(
                f"{path} is damaged: its content does not match the digest in its field {SEAL!r}; {todo}"
            )
        return value
    *_, last = ["", *value]  # the name of the digest field itself may be damaged
    others = {name: x for name, x in value.items() if name != last}
    return others if last and value[last] == seal_of(others) else value


def seal_of(value: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, in any order of its fields."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _finite(text: str) -> float:
    """A number; ValueError if it is not finite, which `write_json` never writes."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is not finite")
    return number


def _where(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
