"""Tables in text files: rows of numbers and paths, each slip named with its file and line."""

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
    """A whole number of 32 bits in decimal digits."""
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 11 and int(digits) < LIMIT):
        raise ValueError(f"{shorten(text)} is no whole number of 32 bits")
    return int(text)


def real(text: str) -> float:
    """A finite number that lies within 32 bits."""
    number = float(text)
    if not math.isfinite(number) or abs(number) >= LIMIT:
        raise ValueError(f"{shorten(text)} is not finite, or beyond 32 bits")
    return number


def inner_path(text: str) -> str:
    """A relative path that stays within its folder."""
    if PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts:
        raise ValueError(f"{shorten(text)} leads out of its folder: give a path within it")
    return text


WORDS: dict[Callable[[str], Any], str] = {integer: "a whole number", real: "a number", inner_path: "a path"}


def read_table(
    file: Path,
    kinds: Sequence[Callable[[str], Any]],
    separator: str | None = None,
    header: str | None = None,
) -> list[Row]:
    """The rows of a text file, each of one value of each kind; the last may hold the separator.

    Args:
        file: of UTF-8; blank lines are passed over.
        kinds: `integer`, `real` or `inner_path` for each column.
        separator: between values; None: white space.
        header: the words of the first line.

    Raises:
        OSError: the file is not there.
        ValueError: it is no text, lacks the header, or a row has other values.
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
                f"{file}, line {number}: {shorten(line)} is in the place of {words}{why}"
            ) from error
    return rows


def shorten(text: str) -> str:
    """A text as Python writes it, cut off where it is long."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def by_first(rows: list[Row], file: Path) -> dict[Any, tuple[Any, ...]]:
    """What follows the first value of each row, by that value, which no other row has."""
    check_once(((f"line {row.line}", row.values[0]) for row in rows), file)
    return {row.values[0]: row.values[1:] for row in rows}


def check_once(places: Iterable[tuple[str, Hashable]], file: Path) -> None:
    """Raise a ValueError that names file and line of a value that was there before."""
    seen: dict[Hashable, str] = {}
    for place, value in places:
        if value in seen:
            raise ValueError(f"{file}, {place}: {shorten(str(value))} is in {seen[value]} too")
        seen[value] = place


def existing(paths: Sequence[Path], file: Path, place: Sequence[str]) -> list[Path]:
    """The paths, each of which a file names once and which are regular files.

    Args:
        paths: as they are named.
        file: the file that names them.
        place: in it, of each.

    Raises:
        ValueError: a path is named twice; files are missing, or are no regular files.
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
    """The names of the classes; a ValueError where one of those with images has none."""
    unnamed = sorted({*labels.tolist()} - names.keys())
    if unnamed:
        raise ValueError(f"{file} does not name the classes {summarize(unnamed)}, which have images")
    return names


def check_one_class_a_folder(paths: list[Path], labels: np.ndarray, base: Path, files: str) -> None:
    """Raise a ValueError where the images of a folder have several classes, or those of a class folders."""
    pairs = sorted({(x.parent.name, label) for x, label in zip(paths, labels.tolist(), strict=True)})
    for side in (0, 1):
        counts = Counter(pair[side] for pair in pairs)
        if odd := [f"{folder} = {label}" for folder, label in pairs if counts[(folder, label)[side]] > 1]:
            raise ValueError(f"{base}: the folders do not fit the classes of {files}: {summarize(odd)}")
