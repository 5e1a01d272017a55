"""Hierarchical accuracy: an error costs the height of the lowest common ancestor, as in WordNet."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from pddm_jax.system.regular import read_text

BLOCK = 4096
"""Pairs of classes compared at a time."""


class Hierarchy(NamedTuple):
    """Classes, and for each of them its ancestors, itself among them, as a bit set over the nodes.

    Nodes are in the order of their heights; the height of a node is its longest path down to a leaf.
    """

    names: tuple[str, ...]
    heights: Int[np.ndarray, " nodes"]
    ancestors: UInt8[np.ndarray, "c bytes"]  # a bit for each node


def read_hierarchy(path: Path, names: Sequence[str]) -> Hierarchy:
    """Read the part of a hierarchy that lies above the given classes.

    Args:
        path: lines of "PARENT CHILD", for example WordNet ids in ImageNet's wordnet.is_a.txt; a child may
            have several parents.
        names: ids of the classes, as in the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a pair, there is a cycle, or a class is not in the file.
    """
    parents: dict[str, list[str]] = {}
    nodes = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        pair = line.split()
        if len(pair) != 2:
            raise ValueError(f"{path}, line {number}: expected PARENT CHILD, got {line!r}")
        parents.setdefault(pair[1], []).append(pair[0])
        nodes.update(pair)
    missing = [name for name in names if name not in nodes]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} of {len(names)} classes, for example {missing[0]}")
    return _hierarchy(names, parents, path)


def _hierarchy(names: Sequence[str], parents: dict[str, list[str]], path: Path) -> Hierarchy:
    order = _topological(names, parents, path)
    height = dict.fromkeys(order, 0)
    for node in order:
        for parent in parents.get(node, ()):
            height[parent] = max(height[parent], height[node] + 1)
    index = {node: n for n, node in enumerate(sorted(order, key=lambda node: height[node]))}
    ancestors: Bool[np.ndarray, "nodes nodes"] = np.zeros((len(order), len(order)), bool)
    for node in reversed(order):  # parents first
        ancestors[index[node], index[node]] = True
        for parent in parents.get(node, ()):
            ancestors[index[node]] |= ancestors[index[parent]]
    heights = np.array([height[node] for node in index])
    return Hierarchy(tuple(names), heights, np.packbits(ancestors[[index[name] for name in names]], axis=1))


def _topological(names: Sequence[str], parents: dict[str, list[str]], path: Path) -> list[str]:
    """The classes and all of their ancestors, each node before its parents; ValueError at a cycle."""
    order: list[str] = []
    state: dict[str, bool] = {}  # False while the ancestors of a node are being visited
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
    """Hierarchical accuracy: 1 for the right class, less the higher its common ancestor with the predicted.

        1 - mean of  height(lowest common ancestor) / height of the hierarchy

    Classes without a common ancestor cost the full height.

    Args:
        hierarchy: hierarchy of the classes.
        predicted: [n], indices into `hierarchy.names`.
        labels: [n], indices of the right classes.

    Raises:
        ValueError: there is no image, or an index is out of range.

    Source: Deng, Berg, Li, Fei-Fei, "What Does Classifying More Than 10,000 Image Categories Tell Us?",
    ECCV 2010.
    """
    pairs = np.stack([predicted, labels], axis=1)
    if not len(pairs) or pairs.min() < 0 or pairs.max() >= len(hierarchy.names):
        raise ValueError(
            f"predicted and labels must not be empty, and hold indices of {len(hierarchy.names)} classes"
        )
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    blocks = [distinct[start : start + BLOCK] for start in range(0, len(distinct), BLOCK)]
    heights = np.concatenate([_common_heights(hierarchy, *block.T) for block in blocks])
    top = max(int(hierarchy.heights.max()), 1)
    return float(1 - np.average(heights / top, weights=counts))


def _common_heights(
    hierarchy: Hierarchy, a: Int[np.ndarray, " p"], b: Int[np.ndarray, " p"]
) -> Int[np.ndarray, " p"]:
    top = hierarchy.heights.max()
    common = hierarchy.ancestors[a] & hierarchy.ancestors[b]
    first = np.argmax(common != 0, axis=1)  # the first common node is the lowest
    byte = common[np.arange(len(common)), first]
    node = 8 * first + np.argmax(np.unpackbits(byte[:, None], axis=1), axis=1)
    heights = np.where(byte > 0, hierarchy.heights[np.minimum(node, len(hierarchy.heights) - 1)], top)
    return np.where(a == b, 0, heights)  # a class may be an ancestor of others, of height above 0
