"""Class descriptions for zero-shot learning: attributes, word vectors, or the words of class names."""

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from pddm_jax.system.regular import check_regular, read_text

Row = tuple[str, str, Sequence[str]]  # file and line, id of a class, its numbers


def read_descriptions(
    path: Path, classes: Sequence[str], ids: Path | None = None
) -> Float[np.ndarray, "c a"]:
    """Read the vectors of the given classes, in their order, from a file that may hold many more.

    The file is read line by line: word vectors of a whole language take the memory of these classes only.

    Args:
        path: file of vectors, in the format of its extension:
            `.npy`: a matrix of numbers, with a row for each line of `ids`;
            `.csv`: attributes, with a header line, then one line for each class, its id first;
            any other: word vectors as text, each line an id and its numbers, separated by white space
            (GloVe, or word2vec with its first line of the two sizes).
        classes: ids of the classes, without duplicates.
        ids: for `.npy` only, the file of ids, one on each line.

    Raises:
        OSError: a file does not exist or cannot be read.
        ValueError: a class has no vector, or two; a vector differs from the first in length, is all zeros,
            or is not finite; the file does not have the format of its extension.
    """
    if (ids is not None) != (path.suffix == ".npy"):
        raise ValueError(
            f"a file of ids must be given for .npy, and for no other format: got {path}, ids {ids}"
        )
    if len({*classes}) < len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise ValueError(f"classes must have no duplicates, but {twice!r} occurs more than once")
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
        examples = ", ".join(map(repr, missing[:3]))
        found_none = f"{path} has no description for {len(missing)} of {len(classes)} classes"
        raise ValueError(f"{found_none}, for example {examples}")
    return np.stack([found[name] for name in classes]) if classes else np.zeros((0, 0), np.float32)


def _text_rows(path: Path) -> Iterator[Row]:
    check_regular(path, None)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            name, *numbers = line.split() or [""]
            if number == 1 and len(numbers) == 1 and name.isdecimal() and numbers[0].isdecimal():
                continue  # the first line of word2vec
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
                raise ValueError(f"{where} has another vector for {name!r}: give one vector for each class")
            if len(numbers) != length or not length:
                raise ValueError(
                    f"{where} has {len(numbers)} numbers for {name!r}, but the first vector has {length}"
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
        raise ValueError(f"{path} is damaged or is not a .npy file of numbers: {error}") from None
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu" or len(matrix) != len(names):
        raise ValueError(
            f"{path} must hold a matrix of real numbers, a row for each of {len(names)} lines of {ids}, "
            f"got {matrix.dtype} of shape {matrix.shape}"
        )
    found: dict[str, np.ndarray] = {}
    for number, name in enumerate(names):
        if name in wanted:
            if name in found:
                raise ValueError(
                    f"{ids}:{number + 1} has another row for {name!r}: give one row for each class"
                )
            found[name] = _checked(matrix[number], f"{path}, row {number}", name)
    return found


def _checked(vector: np.ndarray, where: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # reported below
        vector = np.array(vector, np.float32)
    if not np.isfinite(vector).all():
        raise ValueError(f"{where}: the vector of {name!r} is not finite in float32")
    if not vector.any():
        raise ValueError(f"{where}: the vector of {name!r} is all zeros")
    return vector


def word_descriptions(names: Sequence[str]) -> Float[np.ndarray, "c w"]:
    """Descriptions by the words of class names, weighted by inverse document frequency.

        s[c, w] = sqrt(log(number of classes / number of classes with w)) where c has w, else 0

    with a column for each word, in alphabetical order. So the product of two classes is the sum of the
    inverse document frequencies of their shared words.

    Args:
        names: names of the classes; a word is a run of letters and digits, whatever their case.

    Source: Sparck Jones, "A Statistical Interpretation of Term Specificity", Journal of Documentation 1972.
    """
    words_of = [{*re.findall(r"\w+", name.casefold())} for name in names]
    count = Counter(word for words in words_of for word in words)
    columns = {word: n for n, word in enumerate(sorted(count))}
    found = np.zeros((len(names), len(columns)), np.float32)
    for row, words in zip(found, words_of, strict=True):
        for word in words:
            row[columns[word]] = math.sqrt(math.log(len(names) / count[word]))
    return found
