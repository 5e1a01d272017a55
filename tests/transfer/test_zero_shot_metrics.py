"""Ranks of the right class and Hit@K against loops."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.transfer import zero_shot, zero_shot_metrics
from tests.helpers import oracles
from tests.helpers.embeddings import CLASS_COUNT, N, each_method, made, problem

IDENTITY = zero_shot.Affine(np.eye(2, dtype=np.float32), np.zeros(2, np.float32))


def scores_of(semantic_map, x, s):
    """In float64."""
    return [
        [oracles.cosine(vector, row) for row in oracles.number_rows(s)]
        for vector in semantic_map(x).tolist()
    ]


@each_method
def test_hit_at_k_is_the_loops(method):
    x, rows, s = problem()
    semantic_map = made(method)
    found = zero_shot_metrics.ranks(semantic_map, x, rows, s)
    expected = oracles.hit_at_k(scores_of(semantic_map, x, s), rows, zero_shot_metrics.KS)
    assert zero_shot_metrics.hit_at_k(found) == pytest.approx(expected)
    assert 0 < expected[1] < expected[5] < expected[10] == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ranks_where_many_cosines_tie(seed):
    """Along the axes and at 0 cosines are whole numbers, to the bit."""
    rng = np.random.default_rng(seed)
    axes = np.array([[0, 0], [1, 0], [0, 2], [-4, 0], [0, -0.5]], np.float32)
    x, s, rows = axes[rng.integers(0, 5, 6)], axes[rng.integers(0, 5, 5)], rng.integers(0, 5, 6)
    found = zero_shot_metrics.ranks(IDENTITY, x, rows, s)
    for place, vector, row in zip(found, x, rows, strict=True):
        of_all = [oracles.cosine(vector, other) for other in s]
        order = sorted(range(5), key=lambda j: (-of_all[j], j))
        assert place == order.index(row)
    assert zero_shot_metrics.hit_at_k(found, (5,)) == {5: 1.0}


@each_method
def test_the_likeliest_are_those_that_come_first(method):
    x, rows, s = problem()
    semantic_map = made(method)
    found = zero_shot_metrics.top_classes(semantic_map, x, s, 4)
    for ranked, scores in zip(found, scores_of(semantic_map, x, s), strict=True):
        np.testing.assert_allclose([scores[j] for j in ranked], sorted(scores)[:-5:-1], atol=1e-5)
    every = zero_shot_metrics.top_classes(semantic_map, x, s, 100)
    assert every.shape == (N, CLASS_COUNT)
    np.testing.assert_array_equal(
        (every == rows[:, None]).argmax(axis=1), zero_shot_metrics.ranks(semantic_map, x, rows, s)
    )


def test_ranks_of_many_blocks_are_those_of_one(monkeypatch):
    x, rows, s = problem()
    semantic_map = made("ridge")
    one = zero_shot_metrics.ranks(semantic_map, x, rows, s)
    monkeypatch.setattr(zero_shot_metrics, "BLOCK", 7)
    jax.clear_caches()
    np.testing.assert_array_equal(zero_shot_metrics.ranks(semantic_map, x, rows, s), one)


def test_hit_at_k_by_class_counts_each_class_once():
    places, classes = np.array([0, 0, 0, 5]), np.array([7, 7, 7, 2**40])
    assert zero_shot_metrics.hit_at_k(places, (1, 6)) == {1: 0.75, 6: 1.0}
    assert zero_shot_metrics.hit_at_k(places, (1, 6), classes) == {1: 0.5, 6: 1.0}
    with pytest.raises(ValueError, match="no image"):
        zero_shot_metrics.hit_at_k(places[:0])


def test_the_harmonic_mean():
    assert zero_shot_metrics.harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3)
    assert zero_shot_metrics.harmonic_mean(0.0, 0.9) == zero_shot_metrics.harmonic_mean(0.0, 0.0) == 0


def test_ranks_name_what_does_not_fit():
    x, rows, s = problem()
    semantic_map = made("ridge")
    for arguments, words in (
        ((x * np.inf, rows, s), "embeddings must be finite"),
        ((x, rows, s[:3]), "labels must be row numbers of the 3 descriptions"),
        ((x, rows[1:], s), "labels must be 40 integers"),
    ):
        with pytest.raises(ValueError, match=words):
            zero_shot_metrics.ranks(semantic_map, *arguments)
