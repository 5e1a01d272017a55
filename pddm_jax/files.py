"""Files that appear whole or not at all, and one line for those that cannot be written or read."""

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


class NotWritten(OSError):
    """A file could not be written; the message says which one, why, and what to do."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.message = message

    def __str__(self) -> str:
        return self.message


def no_space(path: Path, kept: str) -> NotWritten:
    """The error of a full disk; `kept` says what is still whole."""
    return NotWritten(
        errno.ENOSPC,
        f"no space left for {path} (disk full, or a quota reached): {kept}; free some space and give the "
        "same command again",
    )


@contextmanager
def explained(path: Path, kept: str = "what was written whole before is kept") -> Iterator[None]:
    """Turn the error of a disk that is full or may not be written into one line that names the path.

    Raises:
        NotWritten: in place of the OSError.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise no_space(path, kept) from error
        if error.errno in _CLOSED:
            reason = os.strerror(error.errno).lower()
            raise NotWritten(
                error.errno, f"{path} cannot be written: {reason}; choose another folder"
            ) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` in one step when the block ends well."""
    part = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text, which is on the disk before it takes its place."""
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Replace a file by this value as indented JSON; ValueError where it holds a nan or infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_object(path: Path, todo: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        todo: what to do where it is damaged.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it holds no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder, and must be a file: {todo}") from error
    except ValueError as error:
        found = "it is empty" if path.stat().st_size == 0 else f"it is no JSON: {_where(error)}"
        raise ValueError(f"{path} is damaged: {found}; {todo}") from error
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: it is nested too deeply; {todo}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no object but {str(value)[:40]!r}; {todo}")
    return value


def _where(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
