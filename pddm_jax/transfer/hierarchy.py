"""How wrong a wrong class is: the height at which it meets the right one, as in WordNet's hierarchy."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from pddm_jax.system.regular import read_text

BLOCK = 4096
"""Pairs of classes that are compared at a time."""


class Hierarchy(NamedTuple):
    """Classes, and for each the nodes that it is a kind of, itself among them.

    Nodes come in the order of their heights: the longest way down to a class that has none below it.
    """

    names: tuple[str, ...]
    heights: Int[np.ndarray, " nodes"]
    above: UInt8[np.ndarray, "c bytes"]  # a bit for each node


def read_hierarchy(path: Path, names: Sequence[str]) -> Hierarchy:
    """The part of a hierarchy that lies above some classes.

    Args:
        path: lines of "PARENT CHILD", such as WordNet ids in ImageNet's wordnet.is_a.txt; a child may have
            several parents.
        names: of the classes, as the file writes them.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is no pair, there is a cycle, or a class has no node.
    """
    parents: dict[str, list[str]] = {}
    nodes = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        pair = line.split()
        if len(pair) != 2:
            raise ValueError(f"{path}, line {number}: {line!r} is no pair of a parent and a child")
        parents.setdefault(pair[1], []).append(pair[0])
        nodes.update(pair)
    missing = [name for name in names if name not in nodes]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(names)} classes, such as {missing[0]}")
    return _above(names, parents, path)


def _above(names: Sequence[str], parents: dict[str, list[str]], path: Path) -> Hierarchy:
    order = _upward(names, parents, path)
    height = dict.fromkeys(order, 0)
    for node in order:
        for parent in parents.get(node, ()):
            height[parent] = max(height[parent], height[node] + 1)
    place = {node: n for n, node in enumerate(sorted(order, key=lambda node: height[node]))}
    above: Bool[np.ndarray, "nodes nodes"] = np.zeros((len(order), len(order)), bool)
    for node in reversed(order):  # those above first
        above[place[node], place[node]] = True
        for parent in parents.get(node, ()):
            above[place[node]] |= above[place[parent]]
    heights = np.array([height[node] for node in place])
    return Hierarchy(tuple(names), heights, np.packbits(above[[place[name] for name in names]], axis=1))


def _upward(names: Sequence[str], parents: dict[str, list[str]], path: Path) -> list[str]:
    """The classes and all that lies above them, each node before its parents."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False while what lies above a node is being looked for
    for name in names:
        stack = [(name, False)]
        while stack:
            node, done = stack.pop()
            if done:
                state[node] = True
                order.append(node)
            elif node not in state:
                state[node] = False
                stack.append((node, True))
                stack += [(parent, False) for parent in parents.get(node, ())]
            elif not state[node]:
                raise ValueError(f"{path} has a cycle through {node}")
    return order[::-1]


def hierarchical_accuracy(
    hierarchy: Hierarchy, predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]
) -> float:
    """1 for the right class, less the higher it and the predicted one meet, 0 where only at the top.

        1 - mean of  height(lowest common ancestor) / height of the whole

    Classes of several common ancestors meet in the lowest; those without any at the full height.

    Args:
        hierarchy: of the classes.
        predicted: [n], numbers of classes in `hierarchy.names`.
        labels: [n], likewise.

    Raises:
        ValueError: there is no image, or a number is none of a class.

    Source: Deng, Berg, Li, Fei-Fei, "What Does Classifying More Than 10,000 Image Categories Tell Us?",
    ECCV 2010.
    """
    pairs = np.stack([predicted, labels], axis=1)
    if not len(pairs) or pairs.min() < 0 or pairs.max() >= len(hierarchy.names):
        raise ValueError(f"predicted and labels must be numbers of {len(hierarchy.names)} classes")
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    blocks = [distinct[start : start + BLOCK] for start in range(0, len(distinct), BLOCK)]
    heights = np.concatenate([_meeting_heights(hierarchy, *block.T) for block in blocks])
    top = max(int(hierarchy.heights.max()), 1)
    return float(1 - np.average(heights / top, weights=counts))


def _meeting_heights(
    hierarchy: Hierarchy, a: Int[np.ndarray, " p"], b: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " p"]:
    top = hierarchy.heights.max()
    common = hierarchy.above[a] & hierarchy.above[b]
    first = np.argmax(common != 0, axis=1)  # the first common node is the lowest
    byte = common[np.arange(len(common)), first]
    node = 8 * first + np.argmax(np.unpackbits(byte[:, None], axis=1), axis=1)
    heights = np.where(byte > 0, hierarchy.heights[np.minimum(node, len(hierarchy.heights) - 1)], top)
    return np.where(a == b, 0, heights)  # a class may itself stand above others
