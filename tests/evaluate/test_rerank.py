"""Re-ranking against loops in float64: Euclidean neighbors to a depth, ordered by a score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pddm_jax
from pddm_jax.evaluate import measures, metrics
from pddm_jax.evaluate.rerank import rerank
from pddm_jax.pddm.scoring import score_rows
from tests.helpers import oracles
from tests.helpers.units import random_unit

WIDTH = 3


@jax.jit
def product(q, g):
    return q @ g.T


def loops_product(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def loops_ranking(query, gallery, score, depth, without=None):
    """Gallery indices: the `depth` nearest by score, then the others by distance; ties to the lowest."""
    others = [g for g in range(len(gallery)) if g != without]
    near = sorted(others, key=lambda g: (-oracles.negative_squared_distance(query, gallery[g]), g))
    first = sorted(near[:depth], key=lambda g: (-score(query, gallery[g]), g))
    return first + near[depth:]


def loops_measures(rankings, labels, gallery_labels, own, ks):
    """Recall@K, R-precision and MAP@R over the queries that have an image of their class in the gallery."""
    recalls, precisions, averages = {k: [] for k in ks}, [], []
    for q, ranking in enumerate(rankings):
        hits = [gallery_labels[g] == labels[q] for g in ranking]
        relevant = sum(g == labels[q] for g in gallery_labels) - own
        if not relevant:
            continue
        for k in ks:
            recalls[k].append(any(hits[:k]))
        precisions.append(sum(hits[:relevant]) / relevant)
        found = [sum(hits[: i + 1]) / (i + 1) for i in range(relevant) if hits[i]]
        averages.append(sum(found) / relevant)
    mean = {k: np.mean(found) for k, found in recalls.items()}
    return mean, np.mean(precisions), np.mean(averages)


def grid_rows(seed, n):
    """On a grid of 27 points: distances and scores tie exactly, and images coincide."""
    return np.random.default_rng(seed).integers(-1, 2, (n, WIDTH)).astype(np.float32)


def normal_rows(seed, n):
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def pddm():
    """A score function, and its loops."""
    params = random_unit(WIDTH)
    plain = oracles.as_python(params)
    score_fn = jax.tree_util.Partial(pddm_jax.score_matrix, params)
    return score_fn, lambda x, y: oracles.pddm_score(plain, x, y)


@pytest.mark.parametrize("depth", [1, 4, 17, 100])
@pytest.mark.parametrize("rows", [normal_rows, grid_rows])
def test_against_the_loops(rows, depth):
    queries, gallery = rows(0, 9), rows(1, 17)
    scores, index = (np.asarray(x) for x in rerank(queries, gallery, product, depth))
    assert scores.shape == index.shape == (9, min(depth, 17))
    assert scores.dtype == np.float32
    for q, query in enumerate(queries.tolist()):
        expected = loops_ranking(query, gallery.tolist(), loops_product, depth)[: min(depth, 17)]
        assert index[q].tolist() == expected
        wanted = [loops_product(query, gallery[g].tolist()) for g in expected]
        np.testing.assert_allclose(scores[q], wanted, atol=1e-5)


@pytest.mark.parametrize("function", [pddm_jax.score_matrix, score_rows])
def test_by_pddm_score(pddm, function):
    score_fn, score = pddm
    score_fn = jax.tree_util.Partial(function, *score_fn.args)
    queries, gallery = normal_rows(2, 11), normal_rows(3, 23)
    scores, index = (np.asarray(x) for x in rerank(queries, gallery, score_fn, depth=10))
    for q, query in enumerate(queries.tolist()):
        expected = loops_ranking(query, gallery.tolist(), score, 10)[:10]
        assert index[q].tolist() == expected
        np.testing.assert_allclose(
            scores[q], [score(query, gallery[g].tolist()) for g in expected], atol=1e-5
        )


def test_to_the_whole_gallery_it_is_the_ranking_by_score(pddm):
    queries, gallery = normal_rows(4, 5), normal_rows(5, 30)
    _, index = rerank(queries, gallery, pddm[0])  # to 100
    assert np.array_equal(index, pddm_jax.nearest(queries, gallery, 30, pddm[0])[1])


def test_many_blocks_of_queries(monkeypatch):
    monkeypatch.setattr("pddm_jax.evaluate.rerank.MAX_PAIRS", 16)
    queries, gallery = grid_rows(6, 23), grid_rows(7, 19)
    jax.clear_caches()
    _, index = rerank(queries, gallery, product, depth=5)
    expected = [loops_ranking(q, gallery.tolist(), loops_product, 5)[:5] for q in queries.tolist()]
    assert index.tolist() == expected
    jax.clear_caches()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), depth=st.sampled_from([1, 3, 8, 40]))
def test_measures_of_the_re_ranked_list(seed, depth):
    """Also where a class holds more images than are re-ranked: the others follow by distance."""
    x = grid_rows(seed, 24)
    labels = np.random.default_rng(seed).choice([0, 1, 2, 7], 24, p=[0.5, 0.3, 0.15, 0.05])
    ks = (1, 2, 5, 30)
    found = metrics.query_measures(x, labels, max(ks), score_fn=product, rerank=depth)
    rankings = [
        loops_ranking(query, x.tolist(), loops_product, depth, without=q)
        for q, query in enumerate(x.tolist())
    ]
    recall, precision, average = loops_measures(rankings, labels, labels, 1, ks)
    means = metrics.summarize(found, ks)
    assert means.recall_at_k == pytest.approx(recall, abs=1e-12)
    assert means.r_precision == pytest.approx(precision, abs=1e-12)
    assert means.map_at_r == pytest.approx(average, abs=1e-12)


def test_measures_with_a_gallery_and_blocks_of_queries(monkeypatch):
    monkeypatch.setattr(measures, "MAX_NEIGHBORS", 60)
    x, gallery = grid_rows(8, 13), grid_rows(9, 20)
    labels, gallery_labels = np.arange(13) % 4, np.arange(20) % 3
    found = metrics.query_measures(x, labels, 4, gallery, gallery_labels, product, rerank=3)
    rankings = [loops_ranking(query, gallery.tolist(), loops_product, 3) for query in x.tolist()]
    recall, precision, average = loops_measures(rankings, labels, gallery_labels, 0, (1, 4))
    means = metrics.summarize(found, (1, 4))
    assert means.recall_at_k == pytest.approx(recall)
    assert (means.r_precision, means.map_at_r) == pytest.approx((precision, average))


def test_a_depth_beyond_the_gallery_measures_the_ranking_by_score():
    x, labels = normal_rows(10, 20), np.arange(20) % 4
    whole = metrics.query_measures(x, labels, 8, score_fn=product)
    for one, other in zip(
        metrics.query_measures(x, labels, 8, score_fn=product, rerank=500), whole, strict=True
    ):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("depth", [0, -1, True, 2.0, "4", None])
def test_refuses_what_is_not_a_depth(depth):
    x = normal_rows(11, 8)
    with pytest.raises(ValueError, match=r"^depth must be"):
        rerank(x, x, product, depth)
    if depth is not None:
        with pytest.raises(ValueError, match=r"^rerank must be"):
            metrics.query_measures(x, np.zeros(8, int), score_fn=product, rerank=depth)


def test_refuses_what_cannot_be_re_ranked():
    x = normal_rows(12, 8)
    with pytest.raises(ValueError, match=r"^rerank needs a score_fn.*rerank=5"):
        metrics.query_measures(x, np.zeros(8, int), rerank=5)
    with pytest.raises(ValueError, match=r"^gallery must hold at least one image"):
        rerank(x, x[:0], product)
    with pytest.raises(ValueError, match=r"^gallery must be a matrix \[n, 3\]"):
        rerank(x, x[:, :2], product)
    with pytest.raises(ValueError, match=r"^queries must be finite.* the first is 2"):
        rerank(np.where(np.arange(8)[:, None] == 2, np.nan, x), x, product)
    with pytest.raises(ValueError, match=r"^score_fn gives NaN"):
        rerank(x, x, lambda q, g: jnp.log(q @ g.T))
    with pytest.raises(
        ValueError, match=r"^score_fn must return an array of shape \[1, 8\] .*, got \[8, 1\]"
    ):
        rerank(x, x, lambda q, g: g @ q.T)


def test_of_no_queries():
    scores, index = rerank(np.zeros((0, WIDTH), np.float32), normal_rows(13, 9), product, depth=4)
    assert scores.shape == index.shape == (0, 4)


ON_EIGHT_DEVICES = """
import jax, numpy as np
from pddm_jax.evaluate.rerank import rerank
from pddm_jax.pddm.scoring import score_rows
rng = np.random.default_rng(0)
queries, gallery = (rng.integers(-2, 3, (n, 2)).astype(np.float32) for n in (13, 300))
index = np.asarray(rerank(queries, gallery, lambda q, g: q @ g.T, depth=20)[1])
distances = ((queries[:, None] - gallery) ** 2).sum(-1)
near = np.sort(np.argsort(distances, axis=1, kind="stable")[:, :20], axis=1)
scores = np.take_along_axis(queries @ gallery.T, near, axis=1)
order = np.argsort(-scores, axis=1, kind="stable")
assert np.array_equal(index, np.take_along_axis(near, order, axis=1))
print(jax.device_count())
"""


def test_queries_sharded_over_devices(python):
    status, out, err = python("-c", ON_EIGHT_DEVICES, devices=8)
    assert status == 0, err
    assert out.split() == ["8"]
