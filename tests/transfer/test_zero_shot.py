"""Zero-shot maps against loops, least squares and linear programming."""

import math

import jax
import numpy as np
import pytest
from scipy.optimize import linprog

from pddm_jax.transfer import zero_shot, zero_shot_metrics
from tests.helpers import oracles
from tests.helpers.embeddings import (
    ARGUMENTS,
    ATTRIBUTES,
    CLASS_COUNT,
    NOT_SEEN,
    WIDTH,
    N,
    each_method,
    made,
    problem,
)


@pytest.mark.parametrize("top", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_conse_is_the_loops(top, temperature):
    x, rows, s = problem()
    found = made("conse", top=top, temperature=temperature)(x)
    expected = [oracles.conse(x, rows, s, top, temperature, query) for query in oracles.number_rows(x)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_conse_far_from_all_classes_is_finite_and_the_nearest():
    x = problem()[0]
    found = made("conse", temperature=1e-6)(1e3 * x)
    nearest = made("conse", top=1)(1e3 * x)
    np.testing.assert_allclose(found, nearest, atol=1e-6)


@pytest.mark.parametrize("weight", [1e-3, 0.1, 10.0])
def test_ridge_is_least_squares_with_rows_for_the_weight(weight):
    x, rows, s = (np.asarray(array, np.float64) for array in problem())
    targets = (s / np.linalg.norm(s, axis=1, keepdims=True))[rows.astype(int)]
    centred, offset = x - x.mean(axis=0), targets.mean(axis=0)
    extended = np.concatenate([centred, math.sqrt(weight * N) * np.eye(WIDTH)])
    wanted = np.concatenate([targets - offset, np.zeros((WIDTH, ATTRIBUTES))])
    kernel = np.linalg.lstsq(extended, wanted, rcond=None)[0]
    found = made("ridge", weight=weight)
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-5)
    np.testing.assert_allclose(found(problem()[0]), centred @ kernel + offset, atol=1e-5)


def test_ridge_of_one_image_and_of_equal_images_is_their_description():
    _, _, s = problem()
    for x in (np.ones((1, WIDTH)), np.ones((3, WIDTH))):
        found = zero_shot.ridge(x, np.full(len(x), 2), s, weight=0.1)(np.zeros((2, WIDTH)))
        np.testing.assert_allclose(found, np.stack([s[2] / np.linalg.norm(s[2])] * 2), atol=1e-6)


@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_the_ranking_loss_is_the_loops(margin):
    x, rows, s = problem()
    kernel = np.random.default_rng(1).normal(size=(WIDTH, ATTRIBUTES)).astype(np.float32)
    unit = s / np.linalg.norm(s, axis=1, keepdims=True)
    found = zero_shot.ranking_loss(kernel, x, rows, unit, margin)
    assert float(found) == pytest.approx(oracles.ranking_loss(kernel, x, rows, s, margin), rel=1e-5)


def test_ranking_descends_to_the_least_loss():
    """The loss is convex, and the least one is found by linear programming."""
    x, rows, s = problem()
    margin, unit = ARGUMENTS["ranking"]["margin"], s / np.linalg.norm(s, axis=1, keepdims=True)
    wrong = [(n, j) for n in range(N) for j in {*rows.tolist()} - {int(rows[n])}]
    hinges = np.stack([np.outer(x[n], unit[rows[n]] - unit[j]).ravel() for n, j in wrong])
    least = linprog(
        np.concatenate([np.zeros(WIDTH * ATTRIBUTES), np.full(len(wrong), 1 / N)]),
        A_ub=-np.concatenate([hinges, np.eye(len(wrong))], axis=1),
        b_ub=np.full(len(wrong), -margin),
        bounds=[(None, None)] * (WIDTH * ATTRIBUTES) + [(0, None)] * len(wrong),
    ).fun
    seen = np.unique(rows)
    found = [
        float(zero_shot.ranking_loss(kernel, x, np.searchsorted(seen, rows), unit[seen], margin))
        for kernel in (0 * made("ranking").kernel, made("ranking", steps=1000).kernel)
    ]
    assert found[0] == pytest.approx(margin * (len(seen) - 1))
    assert least < found[1] < 1.1 * least < 0.7 * found[0]


def test_the_batches_of_ranking_go_by_its_seed():
    one, again, other = (np.asarray(made("ranking", seed=seed).kernel) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@each_method
def test_only_directions_of_descriptions_and_classes_with_images_count(method):
    x, rows, s = problem()
    found = made(method)(x)
    changed = s * np.linspace(0.5, 3, CLASS_COUNT)[:, None]
    changed[NOT_SEEN] = -5
    np.testing.assert_allclose(made(method, x, rows, changed)(x), found, atol=1e-5)


@each_method
def test_a_map_is_a_pytree_of_finite_numbers(method):
    semantic_map = made(method)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(semantic_map))
    x = problem()[0]
    np.testing.assert_allclose(
        jax.jit(lambda semantic_map, x: semantic_map(x))(semantic_map, x), semantic_map(x), atol=1e-5
    )


@each_method
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, rows, s: (x[0], rows, s), r"embeddings must be a matrix"),
        (lambda x, rows, s: (x, rows[1:], s), r"labels must be 40 integers"),
        (lambda x, rows, s: (x, rows + 0.5, s), r"labels must be 40 integers, got float"),
        (
            lambda x, rows, s: (x, rows + 1, s),
            r"labels must be row numbers of the 9 descriptions, counted from 0, got 9",
        ),
        (
            lambda x, rows, s: (x, rows - 1, s),
            r"labels must be row numbers of the 9 descriptions, counted from 0, got -1",
        ),
        (lambda x, rows, s: (x, rows, s * np.inf), r"descriptions must be finite"),
        (lambda x, rows, s: (x * np.nan, rows, s), r"embeddings must be finite"),
        (lambda x, rows, s: (x[:0], rows[:0], s), r"at least one image"),
    ],
)
def test_bad_data_is_named(method, change, words):
    with pytest.raises(ValueError, match=words):
        made(method, *change(*problem()))


@pytest.mark.parametrize(
    ("method", "name"), [(method, name) for method in ARGUMENTS for name in ARGUMENTS[method]]
)
def test_a_bad_field_is_named(method, name):
    for value in (0, -1, math.nan) if name not in ("top", "steps", "seed") else (0,) * (name != "seed"):
        with pytest.raises(ValueError, match=name):
            made(method, **{name: value})


@pytest.mark.parametrize("method", ARGUMENTS)
def test_classes_never_seen_are_known_by_what_they_share_with_seen_ones(method):
    """Images are a linear function of attributes: a class has two of eight, half of the pairs are seen."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation([(a, b) for a in range(8) for b in range(a)])
    s = np.zeros((len(pairs), 8), np.float32)
    s[np.arange(len(pairs))[:, None], pairs] = 1
    mixing = rng.normal(size=(8, 16))
    rows = np.repeat(np.arange(len(pairs)), 20)
    x = s[rows] @ mixing + 0.3 * rng.normal(size=(len(rows), 16))
    half = len(pairs) // 2
    seen = rows < half
    semantic_map = made(
        method, x[seen], rows[seen], s[:half], **{"steps": 300} if method == "ranking" else {}
    )
    found = zero_shot_metrics.hit_at_k(
        zero_shot_metrics.ranks(semantic_map, x[~seen], rows[~seen] - half, s[half:]), (1, 5)
    )
    least = {"conse": 0.3, "ridge": 0.9, "ranking": 0.7}[method]
    assert least < found[1] <= found[5]
    assert 1 / half < least / 4
