"""Reading regular files whole; others are refused: a FIFO can block forever, a device has no end."""

import os
import stat
from io import BufferedReader, RawIOBase
from pathlib import Path

from pddm_jax.system.console import visible

LARGEST = 2**30
"""Maximum bytes of an encoded image, a table or a list. Larger files are refused before they are read."""

BLOCK = 2**20
"""Bytes per read of a file whose size is unknown."""

LONGEST_LINE = 2**16
"""Maximum characters in a line of a text file."""

_TODO = ": remove it or move it away"

_READ = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)
"""Flags to open files without waiting for a writer of a pipe. Not every system has all of them."""

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: str | Path, largest: int | None = LARGEST) -> os.stat_result:
    """The status of a regular file, or of a link to one.

    Raises:
        OSError: there is no such file, or the link dangles or loops.
        ValueError: it is no regular file, or larger than `largest` bytes.
    """
    found = os.stat(path)  # noqa: PTH116 (called for each image: a Path would double the time)
    _check(path, found, largest)
    return found


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file to read bytes.

    Raises:
        OSError: there is no such file, or no permission to read it.
        ValueError: it is a folder, a pipe, a device or the like; the message names it.
    """
    number, _ = _open(path, None, "")
    return os.fdopen(number, "rb")


def read_bytes(path: str | Path, largest: int = LARGEST) -> bytes:
    """The bytes of a regular file; the errors are those of `check_regular`."""
    number, found = _open(path, largest)
    with os.fdopen(number, "rb", buffering=0) as file:
        size = found.st_size
        data = file.read(size + 1)
        if len(data) > size:  # it grew, or its file system reports no sizes
            data += _rest(file, largest + 1 - len(data))
    if len(data) > largest:
        raise ValueError(f"{path} is too large: it has more than {largest:,} bytes")
    return data


def _rest(file: RawIOBase, most: int) -> bytes:
    """The rest of a file, block by block; one read would allocate a buffer of the maximum size."""
    blocks: list[bytes] = []
    while most > 0 and (block := file.read(min(BLOCK, most))):
        blocks.append(block)
        most -= len(block)
    return b"".join(blocks)


def _open(path: str | Path, largest: int | None, todo: str = _TODO) -> tuple[int, os.stat_result]:
    """Open a file, then check the descriptor: a check of the path could be outdated when it is opened."""
    try:
        number = os.open(path, _READ)
    except OSError:
        _check(path, os.stat(path), largest, todo)  # noqa: PTH116 (a socket, or a folder on Windows, cannot be opened)
        raise
    try:
        found = os.fstat(number)
        _check(path, found, largest, todo)
    except BaseException:
        os.close(number)
        raise
    return number, found


def _check(path: str | Path, found: os.stat_result, largest: int | None, todo: str = _TODO) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise ValueError(f"{visible(str(path))} is {kind}, not a regular file{todo}")
    if largest is not None and found.st_size > largest:
        raise ValueError(
            f"{visible(str(path))} is too large: {found.st_size:,} bytes, at most {largest:,} are allowed"
        )


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """The text of a regular file in UTF-8, without the byte order mark.

    Raises:
        OSError: as `check_regular`.
        ValueError: as `check_regular`, or the file is not UTF-8.
    """
    data = read_bytes(path, largest)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}, is not text: byte {data[error.start]:#04x} is not UTF-8 (save as UTF-8)"
        ) from error


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """The stripped lines of a text file that are not blank, with their line numbers from 1.

    Lines end with LF, CRLF or CR.

    Raises:
        OSError: as `read_text`.
        ValueError: as `read_text`, or a line holds a NUL byte or more than `LONGEST_LINE` characters.
    """
    lines = []
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST_LINE:
            raise ValueError(
                f"{path}, line {number}: {len(line):,} characters, more than the {LONGEST_LINE:,} of a line"
            )
        if "\0" in line:
            raise ValueError(f"{path}, line {number} holds a NUL byte: save the file as text in UTF-8")
        if line.strip():
            lines.append((number, line.strip()))
    return lines
