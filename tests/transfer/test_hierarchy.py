"""Hierarchical accuracy against recursion over the nodes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.transfer.hierarchy import hierarchical_accuracy, read_hierarchy
from tests.helpers.embeddings import EXACT

IS_A = """
thing animal
thing tool
animal dog
animal cat
dog poodle
dog terrier
tool hammer
pet dog
pet cat
thing pet
unused other
"""
NAMES = ["poodle", "terrier", "cat", "hammer", "dog"]


def loop_meeting(names, lines):
    """{(a, b): height of the lowest common ancestor}, and the height of the whole, by recursion."""
    parents = {}
    for line in lines.split("\n"):
        if line:
            parent, child = line.split()
            parents.setdefault(child, set()).add(parent)

    def above(node):
        return {node}.union(*(above(p) for p in parents.get(node, ())))

    nodes = set().union(*(above(name) for name in names))

    def height(node):
        return max((1 + height(n) for n in nodes if node in parents.get(n, ())), default=0)

    top = max(height(node) for node in nodes)
    meeting = {
        (a, b): 0 if a == b else min((height(n) for n in above(a) & above(b)), default=top)
        for a in names
        for b in names
    }
    return meeting, top


def is_a(path, text):
    path.write_text(text.strip("\n") + "\n", encoding="utf-8")
    return path


def test_classes_meet_where_the_loops_say(tmp_path):
    hierarchy = read_hierarchy(is_a(tmp_path / "is_a", IS_A), NAMES)
    meeting, top = loop_meeting(NAMES, IS_A)
    assert top == 3
    assert meeting["poodle", "terrier"] == 1
    assert meeting["poodle", "dog"] == 1
    assert meeting["cat", "terrier"] == 2
    for (a, b), height in meeting.items():
        found = hierarchical_accuracy(hierarchy, *(np.array([NAMES.index(name)]) for name in (a, b)))
        assert found == pytest.approx(1 - height / top, abs=EXACT), (a, b)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_hierarchical_accuracy_in_any_hierarchy_against_the_loops(tmp_path_factory, seed, size):
    """Of nodes that each have up to two parents among those before; some have none."""
    rng = np.random.default_rng(seed)
    lines = [
        f"n{p} n{n}" for n in range(1, size) for p in {*rng.integers(0, n, rng.integers(0, 3)).tolist()}
    ]
    nodes = sorted({node for line in lines for node in line.split()})
    if not nodes:
        return
    names = rng.permutation(nodes)[: rng.integers(1, len(nodes) + 1)].tolist()
    path = is_a(tmp_path_factory.mktemp("is_a") / "is_a", "\n".join(lines))
    predicted, labels = rng.integers(0, len(names), (2, 50))
    meeting, top = loop_meeting(names, "\n".join(lines))
    costs = [meeting[names[p], names[y]] / max(top, 1) for p, y in zip(predicted, labels, strict=True)]
    found = hierarchical_accuracy(read_hierarchy(path, names), predicted, labels)
    assert found == pytest.approx(1 - sum(costs) / 50, abs=EXACT)


def test_a_hierarchy_that_is_none_is_refused(tmp_path):
    path = tmp_path / "is_a"
    with pytest.raises(OSError, match="is_a"):
        read_hierarchy(path, ["a"])
    with pytest.raises(ValueError, match=r"line 2: expected PARENT CHILD, got 'a b c'"):
        read_hierarchy(is_a(path, "a b\na b c"), ["a"])
    with pytest.raises(ValueError, match=r"lacks 2 of 3 classes, for example x"):
        read_hierarchy(is_a(path, "a b"), ["a", "x", "y"])
    with pytest.raises(ValueError, match=r"cycle through [ab]"):
        read_hierarchy(is_a(path, "a b\nb a\nb c"), ["c"])
    hierarchy = read_hierarchy(is_a(path, "a b"), ["a", "b"])
    for wrong in ([2], [-1], []):
        with pytest.raises(ValueError, match="2 classes"):
            hierarchical_accuracy(hierarchy, np.array(wrong, int), np.array(wrong, int))
