"""What is known of classes beside images: a vector for each, from a file or from its name."""

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pddm_jax.system.regular import check_regular, read_text

Row = tuple[str, str, Sequence[str]]  # where it stands, the id of a class, its numbers


def read_descriptions(
    path: Path, classes: Sequence[str], ids: Path | None = None
) -> Float[np.ndarray, "c a"]:
    """The vectors of some classes, in their order, from a file that may hold many more.

    Read line by line, so that word vectors of a whole language take the memory of these classes only.

    Args:
        path: what it holds goes by its name:
            `.npy`, a matrix of numbers, a row for each line of `ids`;
            `.csv`, attributes: a line of their names, then one for each class, its id first;
            any other, word vectors as text, an id and its numbers, white space between: GloVe's form, and
            word2vec's, whose first line tells how many they are and how long.
        classes: ids of the classes, none twice.
        ids: for `.npy` alone, the file of ids, one a line.

    Raises:
        OSError: a file is not there or cannot be read.
        ValueError: a class has no vector, or two; a vector is not as long as the first, all zeros, or holds
            what is no finite number; the file is not what its name says. All with the id, and where.
    """
    if (ids is not None) != (path.suffix == ".npy"):
        raise ValueError(f"a file of ids belongs to .npy alone, and must be given there: {path}, ids {ids}")
    if len({*classes}) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise ValueError(f"class {twice!r} is asked for more than once")
    try:
        if ids is not None:
            found = _from_npy(path, ids, {*classes})
        else:
            rows = _csv_rows(path) if path.suffix == ".csv" else _text_rows(path)
            found = _parsed(rows, {*classes})
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from None
    missing = [name for name in classes if name not in found]
    if missing:
        few = ", ".join(map(repr, missing[:3]))
        raise ValueError(f"{path} describes {len(missing)} of {len(classes)} classes not, such as {few}")
    return np.stack([found[name] for name in classes]) if classes else np.zeros((0, 0), np.float32)


def _text_rows(path: Path) -> Iterator[Row]:
    check_regular(path, None)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            name, *numbers = line.split() or [""]
            if number == 1 and len(numbers) == 1 and name.isdecimal() and numbers[0].isdecimal():
                continue  # word2vec's first line
            if name:
                yield f"{path}:{number}", name, numbers


def _csv_rows(path: Path) -> Iterator[Row]:
    check_regular(path, None)
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file)
        try:
            next(lines, None)
            for cells in lines:
                if cells:
                    yield f"{path}:{lines.line_num}", cells[0].strip(), cells[1:]
        except csv.Error as error:
            raise ValueError(f"{path}:{lines.line_num} is not CSV: {error}") from None


def _parsed(rows: Iterator[Row], wanted: Collection[str]) -> dict[str, np.ndarray]:
    """The vectors of the wanted ids."""
    found: dict[str, np.ndarray] = {}
    length = None
    for where, name, numbers in rows:
        length = len(numbers) if length is None else length
        if name in wanted:
            if name in found:
                raise ValueError(f"{where} describes {name!r} a second time")
            if len(numbers) != length or not length:
                raise ValueError(
                    f"{where} has {len(numbers)} numbers for {name!r}, the first vector {length}"
                )
            try:
                vector = np.array([float(number) for number in numbers])
            except ValueError as error:
                raise ValueError(f"{where}, {name!r}: {error}") from None
            found[name] = _checked(vector, where, name)
    return found


def _from_npy(path: Path, ids: Path, wanted: Collection[str]) -> dict[str, np.ndarray]:
    names = [line.strip() for line in read_text(ids).splitlines()]
    check_regular(path, None)
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers: {error}") from None
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or len(matrix) != len(names):
        raise ValueError(
            f"{path} must hold a matrix of real numbers, a row for each of {len(names)} lines of {ids}, "
            f"got {matrix.dtype} of shape {matrix.shape}"
        )
    found: dict[str, np.ndarray] = {}
    for number, name in enumerate(names):
        if name in wanted:
            if name in found:
                raise ValueError(f"{ids}:{number + 1} names {name!r} a second time")
            found[name] = _checked(matrix[number], f"{path}, row {number}", name)
    return found


def _checked(vector: np.ndarray, where: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # it is told below
        vector = np.array(vector, np.float32)
    if not np.isfinite(vector).all():
        raise ValueError(f"{where}: the vector of {name!r} is not finite in float32")
    if not vector.any():
        raise ValueError(f"{where}: the vector of {name!r} is all zeros, which describes nothing")
    return vector


def word_descriptions(names: Sequence[str]) -> Float[np.ndarray, "c w"]:
    """A class as the words of its name: a column for each word, in alphabetical order.

        s[c, w] = sqrt(log(number of classes / number of classes with w)) where c has w, else 0

    so that in a product of two classes each shared word counts by its inverse document frequency (Sparck
    Jones 1972): what most names have says little.

    Args:
        names: a class each; a word is a run of letters and digits, capitals or not.
    """
    words = [{*re.findall(r"\w+", name.casefold())} for name in names]
    count = Counter(word for of_class in words for word in of_class)
    columns = {word: n for n, word in enumerate(sorted(count))}
    found = np.zeros((len(names), len(columns)), np.float32)
    for row, of_class in zip(found, words, strict=True):
        for word in of_class:
            row[columns[word]] = math.sqrt(math.log(len(names) / count[word]))
    return found
