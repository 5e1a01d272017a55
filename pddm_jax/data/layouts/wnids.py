"""WordNet ids: the list of a set's classes, and the file that tells which of them each test image shows."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

from pddm_jax.system.regular import read_lines

WNID = re.compile(r"n[0-9]{8}")


def read_wnids(path: Path) -> list[str]:
    """The WordNet ids of a list, the first word of each line; blank lines are passed over.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a line begins with no id, or with one that was there before; or there is none.
    """
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        wnid = line.split()[0]
        if not WNID.fullmatch(wnid):
            raise ValueError(
                f"{path}, line {number}: {wnid[:80]!r} where a WordNet id, as n01440764, belongs"
            )
        if wnid in seen:
            raise ValueError(f"{path}, line {number}: {wnid} is on line {seen[wnid]} too")
        seen[wnid] = number
    if not seen:
        raise ValueError(f"{path} holds no WordNet id")
    return [*seen]


def read_ground_truth(path: Path, classes: int) -> Int[np.ndarray, " n"]:
    """The class of each test image in the order of their numbers: 1 for the first id of the list.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: a line is no number from 1 to that of classes.
    """
    labels = []
    for number, line in read_lines(path):
        if not re.fullmatch(r"[0-9]{1,9}", line) or not 1 <= int(line) <= classes:
            raise ValueError(
                f"{path}, line {number}: {line[:80]!r} where a number from 1 to {classes} belongs"
            )
        labels.append(int(line))
    return np.array(labels, np.int32)
