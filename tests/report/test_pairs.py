"""Hardest pairs and points of the plot against loops over all pairs."""

from typing import NamedTuple

import numpy as np
import pytest

from pddm_jax.report.pairs import hardest_pairs
from tests.helpers import oracles
from tests.report.samples import embedded, normal, unit

HARDEST, POINTS = 12, 700


class Pair(NamedTuple):
    kind: str
    classes: tuple
    distance: float
    score: float | None


def all_pairs(x, labels, score=None):
    """Every pair by its two indices, in ascending order."""
    found = {}
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            classes = tuple(sorted((int(labels[i]), int(labels[j]))))
            kind = "positive" if classes[0] == classes[1] else "negative"
            distance = oracles.distance(x[i].tolist(), x[j].tolist())
            found[i, j] = Pair(kind, classes, distance, score(x[i], x[j]) if score else None)
    return found


def loops_hardest(pairs, kind, by):
    """The hardest pairs, of which a pair of classes has one."""
    sign = 1 if kind == "negative" else -1

    def hardness(ij):
        return sign * (-pairs[ij].distance if by == "euclidean" else pairs[ij].score)

    chosen, seen = [], set()
    for ij in sorted((ij for ij in pairs if pairs[ij].kind == kind), key=lambda ij: -hardness(ij)):
        if pairs[ij].classes not in seen and len(chosen) < HARDEST:
            chosen.append(ij)
            seen.add(pairs[ij].classes)
    return chosen


def indices(pair):
    return tuple(sorted((pair["first"], pair["second"])))


def check_numbers(pair, wanted):
    assert pair["kind"] == wanted.kind
    assert pair["distance"] == pytest.approx(wanted.distance, rel=1e-12)
    if wanted.score is None:
        assert pair["score"] is None
    else:
        assert pair["score"] == pytest.approx(wanted.score, abs=1e-5)


def check(found, pairs, with_unit):
    assert {*found["lists"]} == {"negative", "positive"}
    for kind, lists in found["lists"].items():
        assert {*lists} == ({"euclidean", "pddm"} if with_unit else {"euclidean"})
        for by, of in lists.items():
            assert [indices(pair) for pair in of] == loops_hardest(pairs, kind, by)
            for pair in of:
                check_numbers(pair, pairs[indices(pair)])
    drawn = [indices(pair) for pair in found["points"]]
    assert len({*drawn}) == len(drawn)
    for pair in found["points"]:
        check_numbers(pair, pairs[indices(pair)])
    for kind in ("negative", "positive"):
        count = sum(pair.kind == kind for pair in pairs.values())
        assert sum(pairs[ij].kind == kind for ij in drawn) == (min(POINTS, count) if with_unit else 0)


@pytest.mark.parametrize(
    "labels",
    [
        np.random.default_rng(0).permutation(np.arange(60) % 5),  # 1440 negative pairs, 330 positive ones
        np.random.default_rng(1).choice([-7, 2**40], 58),  # more than 700 of each kind
        np.repeat(np.arange(20), 2),  # more classes than a list has pairs
        np.arange(40),  # classes of one image
        np.full(20, 3),  # one class
    ],
)
def test_against_the_loops(labels):
    x, (params, score) = normal(2, len(labels)), unit()
    found, pairs = hardest_pairs(embedded(x, labels), params, seed=0), all_pairs(x, labels, score)
    assert found["images"] == len(labels)
    check(found, pairs, with_unit=True)


@pytest.mark.parametrize("labels", [np.arange(50) % 7, np.arange(30), np.zeros(30, int)])
def test_without_a_unit_only_distances_are_compared(labels):
    x = normal(3, len(labels))
    found = hardest_pairs(embedded(x, labels), None, seed=0)
    check(found, all_pairs(x, labels), with_unit=False)
    assert found["points"] == []


@pytest.mark.parametrize("labels", [[5], [5, 5], [5, 6], [5, 6, 5]])
@pytest.mark.parametrize("with_unit", [False, True])
def test_few_images(labels, with_unit):
    x, (params, score) = normal(4, len(labels)), unit() if with_unit else (None, None)
    found = hardest_pairs(embedded(x, labels), params, seed=0)
    check(found, all_pairs(x, np.array(labels), score), with_unit)


def test_images_of_one_embedding():
    x, labels, (params, score) = np.ones((24, 4), np.float32), np.arange(24) % 4, unit()
    found = hardest_pairs(embedded(x, labels), params, seed=0)
    pairs = all_pairs(x, labels, score)
    for kind, count in (("negative", 6), ("positive", 4)):
        for of in found["lists"][kind].values():
            assert len({pairs[indices(pair)].classes for pair in of}) == len(of) == count
            for pair in of:
                check_numbers(pair, pairs[indices(pair)])
                assert pair["distance"] == 0


def test_the_seed_determines_the_points_and_not_the_lists():
    data, (params, _) = embedded(normal(5, 60), np.arange(60) % 2), unit()
    found = [hardest_pairs(data, params, seed) for seed in (0, 1, 0)]
    assert found[0] == found[2]
    assert found[0]["lists"] == found[1]["lists"]
    drawn = [{indices(pair) for pair in one["points"]} for one in found]
    assert len(drawn[0]) == len(drawn[1]) == 2 * POINTS
    assert len(drawn[0] - drawn[1]) > 100  # 1770 pairs
