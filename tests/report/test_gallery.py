"""Example queries against loops: neighbors by distance, scores by the formula of the PDDM unit."""

import numpy as np
import pytest

from pddm_jax.evaluate.metrics import QueryMeasures
from pddm_jax.report.gallery import example_queries
from tests.helpers import oracles
from tests.report.samples import embedded, grid, nearest, normal, unit

EXAMPLES, NEIGHBORS = 60, 8


def measures(x, labels):
    """Which queries can be answered, and the rank of the first image of their class, by loops."""
    relevant, first = [], []
    for query, label in enumerate(labels.tolist()):
        hits = [bool(labels[n] == label) for n in nearest(x, query)]
        relevant.append(sum(hits))
        first.append(hits.index(True) if any(hits) else len(hits))
    zeros = np.zeros(len(labels))
    return QueryMeasures(np.array(relevant), np.array(first), zeros, zeros, len(labels) - 1, True)


def labels_of(n, seed=0):
    """Classes of many sizes; 20 images are alone in their class."""
    labels = np.random.default_rng(seed).choice([-2, 5, 7, 2**40], n, p=[0.4, 0.3, 0.2, 0.1])
    labels[5 : 5 + 20] = 100 + np.arange(20)
    return labels


def check(x, labels, found, params=None, score=None):
    """Each query and each neighbor against the loops."""
    for query in found:
        image, neighbors = query["image"], query["neighbors"]
        expected = nearest(x, image)[:NEIGHBORS]
        assert image not in expected
        assert [neighbor["image"] for neighbor in neighbors] == expected
        for neighbor in neighbors:
            other = neighbor["image"]
            assert neighbor["right"] is bool(labels[other] == labels[image])
            wanted = oracles.distance(x[image].tolist(), x[other].tolist())
            assert neighbor["distance"] == pytest.approx(wanted, rel=1e-12)
            if params is None:
                assert neighbor["score"] is None
            else:
                assert neighbor["score"] == pytest.approx(score(x[image], x[other]), abs=1e-5)


@pytest.fixture(scope="module")
def images():
    x = normal(0, 300)
    return x, labels_of(300), measures(x, labels_of(300))


@pytest.mark.parametrize("with_unit", [False, True])
def test_against_the_loops(images, with_unit):
    x, labels, found = images
    params, score = unit() if with_unit else (None, None)
    queries = example_queries(embedded(x, labels), found, params, seed=3)
    check(x, labels, queries, params, score)
    drawn = [query["image"] for query in queries]
    assert len({*drawn}) == len(drawn)
    assert all(found.relevant[n] > 0 for n in drawn)
    right = [query["neighbors"][0]["right"] for query in queries]
    assert right == [bool(found.first[n] == 0) for n in drawn]
    assert (right.count(True), right.count(False)) == (EXAMPLES, EXAMPLES)


def test_the_seed_determines_the_queries(images):
    x, labels, found = images
    drawn = [
        tuple(query["image"] for query in example_queries(embedded(x, labels), found, None, seed))
        for seed in (0, 1, 2, 0)
    ]
    assert drawn[0] == drawn[3]
    assert len({*drawn}) == 3
    answerable = set(np.flatnonzero(found.relevant).tolist())
    assert {n for seed in drawn for n in seed} <= answerable
    assert len({n for seed in drawn for n in seed}) > 1.5 * len(drawn[0])


def test_fewer_queries_than_examples_are_all_drawn():
    x, labels = normal(1, 70), labels_of(70)
    found = measures(x, labels)
    queries = example_queries(embedded(x, labels), found, None, seed=0)
    assert sorted(query["image"] for query in queries) == np.flatnonzero(found.relevant).tolist()
    check(x, labels, queries)


@pytest.mark.parametrize("make", [grid, lambda seed, n: np.ones((n, 3), np.float32)])
def test_where_distances_tie_a_query_is_not_its_own_neighbor(make):
    x, labels = make(2, 60), np.arange(60) % 4
    queries = example_queries(embedded(x, labels), measures(x, labels), None, seed=0)
    assert queries
    check(x, labels, queries)


def test_one_class():
    x, labels = normal(3, 100), np.full(100, 4)
    queries = example_queries(embedded(x, labels), measures(x, labels), None, seed=0)
    assert len(queries) == EXAMPLES
    assert all(neighbor["right"] for query in queries for neighbor in query["neighbors"])
    check(x, labels, queries)


@pytest.mark.parametrize("n", [2, 3, 8, 9, 10])
def test_fewer_images_than_neighbors(n):
    x, labels = normal(4, n), np.arange(n) // 2
    params, score = unit()
    queries = example_queries(embedded(x, labels), measures(x, labels), params, seed=0)
    assert [query["image"] for query in queries] == [*range(n - n % 2)]
    assert {len(query["neighbors"]) for query in queries} == {min(NEIGHBORS, n - 1)}
    check(x, labels, queries, params, score)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_no_query_can_be_answered(n):
    x, labels = normal(5, n), np.arange(n)
    for params in (None, unit()[0]):
        assert example_queries(embedded(x, labels), measures(x, labels), params, seed=0) == []
