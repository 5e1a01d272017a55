"""Tables in text files: rows of numbers and paths; an error names the file and the line."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pddm_jax.data.layouts.base import summarize
from pddm_jax.system.regular import check_regular, read_lines

LIMIT = 2**31
SHOWN = 80
"""Characters of a line that an error shows."""


class Row(NamedTuple):
    """The values of a line."""

    line: int
    values: tuple[Any, ...]


def integer(text: str) -> int:
    """A 32-bit integer in decimal digits."""
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 11 and int(digits) < LIMIT):
        raise ValueError(f"{shorten(text)} is not a 32-bit integer")
    return int(text)


def real(text: str) -> float:
    """A finite number within the range of 32-bit integers."""
    number = float(text)
    if not math.isfinite(number) or abs(number) >= LIMIT:
        raise ValueError(f"{shorten(text)} is not a finite number within 32 bits")
    return number


def inner_path(text: str) -> str:
    """A relative path that does not leave its folder."""
    if PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts:
        raise ValueError(f"{shorten(text)} leads out of its folder: give a path within it")
    return text


WORDS: dict[Callable[[str], Any], str] = {integer: "an integer", real: "a number", inner_path: "a path"}


def read_table(
    file: Path,
    kinds: Sequence[Callable[[str], Any]],
    separator: str | None = None,
    header: str | None = None,
) -> list[Row]:
    """Read the rows of a text file, with one value of each kind; the last value may contain the separator.

    Args:
        file: UTF-8 text; blank lines are ignored.
        kinds: `integer`, `real` or `inner_path`, one for each column.
        separator: between values; None: white space.
        header: the words of the first line, if there is one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text, lacks the header, or a row has other values.
    """
    lines = read_lines(file)
    if header is not None:
        if not lines or lines[0][1].split() != header.split():
            raise ValueError(f"{file} does not begin with the line {header!r}")
        lines = lines[1:]
    rows = []
    for number, line in lines:
        values = line.split(separator, len(kinds) - 1)
        try:
            rows.append(Row(number, tuple(kind(x) for kind, x in zip(kinds, values, strict=True))))
        except ValueError as error:
            words = ", ".join(WORDS[kind] for kind in kinds)
            why = f" ({error})" if len(values) == len(kinds) else ""
            raise ValueError(
                f"{file}, line {number}: found {shorten(line)}, expected {words}{why}"
            ) from error
    return rows


def shorten(text: str) -> str:
    """The repr of a text, shortened if it is long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def by_first(rows: list[Row], file: Path) -> dict[Any, tuple[Any, ...]]:
    """The other values of each row by its first value, which must be unique."""
    check_once(((f"line {row.line}", row.values[0]) for row in rows), file)
    return {row.values[0]: row.values[1:] for row in rows}


def check_once(places: Iterable[tuple[str, Hashable]], file: Path) -> None:
    """Raise a ValueError that names file and place of a value that occurs twice."""
    seen: dict[Hashable, str] = {}
    for place, value in places:
        if value in seen:
            raise ValueError(f"{file}, {place}: {shorten(str(value))} is already in {seen[value]}")
        seen[value] = place


def existing(paths: Sequence[Path], file: Path, place: Sequence[str]) -> list[Path]:
    """The same paths, if they are unique and regular files.

    Args:
        paths: of images.
        file: the file that lists them.
        place: of each path in that file.

    Raises:
        ValueError: a path is listed twice; files are missing, or are not regular files.
    """
    check_once(zip(place, map(str, paths), strict=True), file)
    missing = []
    for where, named in zip(place, paths, strict=True):
        try:
            check_regular(named)
        except OSError:
            missing.append(named)
        except ValueError as error:
            raise ValueError(f"{file}, {where}: {error}") from error
    if missing:
        raise ValueError(
            f"{file} names {len(paths)} images, of which {len(missing)} are missing: {summarize(missing)}"
        )
    return [*paths]


def named(labels: np.ndarray, names: dict[int, str], file: Path) -> dict[int, str]:
    """The same names; a ValueError if a class with images has no name."""
    unnamed = sorted({*labels.tolist()} - names.keys())
    if unnamed:
        raise ValueError(f"{file} has no name for the classes {summarize(unnamed)}, which have images")
    return names


def check_one_class_a_folder(paths: list[Path], labels: np.ndarray, base: Path, files: str) -> None:
    """Raise a ValueError unless the folders of the images and their classes match one to one."""
    pairs = sorted({(x.parent.name, label) for x, label in zip(paths, labels.tolist(), strict=True)})
    for side in (0, 1):
        counts = Counter(pair[side] for pair in pairs)
        if odd := [f"{folder} = {label}" for folder, label in pairs if counts[(folder, label)[side]] > 1]:
            raise ValueError(f"{base}: the folders do not match the classes in {files}: {summarize(odd)}")
