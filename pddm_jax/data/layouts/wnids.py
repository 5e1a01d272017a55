"""Files of ImageNet releases: the list of WordNet ids, and the ground truth of numbered test images."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

from pddm_jax.system.regular import read_lines

WNID = re.compile(r"n[0-9]{8}")


def read_wnids(path: Path) -> list[str]:
    """The WordNet ids of a list, the first word of each line; blank lines are ignored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line does not begin with an id, or an id is listed twice; or there is none.
    """
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        wnid = line.split()[0]
        if not WNID.fullmatch(wnid):
            raise ValueError(
                f"{path}, line {number}: found {wnid[:80]!r}, expected a WordNet id such as n01440764"
            )
        if wnid in seen:
            raise ValueError(f"{path}, line {number}: {wnid} is already on line {seen[wnid]}")
        seen[wnid] = number
    if not seen:
        raise ValueError(f"{path} holds no WordNet id")
    return [*seen]


def read_ground_truth(path: Path, classes: int) -> Int[np.ndarray, " n"]:
    """The class of each test image, image 1 first: class 1 is the first id of the list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a number from 1 to `classes`.
    """
    labels = []
    for number, line in read_lines(path):
        if not re.fullmatch(r"[0-9]{1,9}", line) or not 1 <= int(line) <= classes:
            raise ValueError(
                f"{path}, line {number}: found {line[:80]!r}, expected a number from 1 to {classes}"
            )
        labels.append(int(line))
    return np.array(labels, np.int32)
