"""Losses and mining by distance at every scale, and where distances are small beside the coordinates."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pddm_jax
from pddm_jax.numerics import all_distances
from pddm_jax.pddm.mining import mine_by_distance
from tests.helpers import oracles

LOSSES = {
    "contrastive": (pddm_jax.contrastive_loss, oracles.contrastive, {}),
    "lifted structure": (pddm_jax.lifted_structure_loss, oracles.lifted_structure, {}),
    **{
        f"triplet {mining}": (pddm_jax.triplet_loss, oracles.triplet, {"mining": mining})
        for mining in ("all", "semihard", "hard")
    },
    "multi-similarity": (pddm_jax.multi_similarity_loss, oracles.multi_similarity, {}),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
SCOPES = ("batch", "anchor", "positive")
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 5])
DISTANCES = jax.jit(lambda x: all_distances(x).plain)


def unit_rows(seed, n=9, width=4):
    rows = np.random.default_rng(seed).normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def moved_classes(seed, classes=6, each=3):
    """Spread 0.002 about centres of spread 0.02; half of the classes moved by +50."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 1, 8)) * 0.02
    centres[::2] += 50
    rows = centres + rng.normal(size=(classes, each, 8)) * 0.002
    return rows.reshape(-1, 8).astype(np.float32), np.repeat(np.arange(classes), each)


def tight_super_classes(seed, classes=6, each=3):
    """Unit vectors about two directions, 1e-3 apart within one."""
    rng = np.random.default_rng(seed)
    about = np.repeat(rng.normal(size=(2, 1, 1, 8)), classes // 2, axis=1)
    rows = about + rng.normal(size=(2, classes // 2, 1, 8)) * 2e-3
    rows = (rows + rng.normal(size=(2, classes // 2, each, 8)) * 2e-4).reshape(-1, 8)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), np.repeat(
        np.arange(classes), each
    )


HARD = {"moved": moved_classes, "tight": tight_super_classes}
each_hard = pytest.mark.parametrize("make", HARD.values(), ids=HARD.keys())


def value_and_gradient(name, x, labels, **options):
    loss, _, fixed = LOSSES[name]
    return jax.value_and_grad(lambda rows: loss(rows, labels, **fixed, **options))(x)


def by_loops(name, x, labels, **options):
    _, loops, fixed = LOSSES[name]
    return loops(x, labels, **fixed, **options)


# ------------------------------------------------------------------------- small beside the coordinates


@each_hard
@each_loss
def test_losses_where_distances_are_small_beside_the_coordinates(name, make):
    x, labels = make(0)
    options = {} if name == "multi-similarity" else {"margin": 1e-4}
    value, _ = value_and_gradient(name, x, labels, **options)
    if name == "multi-similarity":  # by products, which are as large as the coordinates: 20,000
        assert float(value) == pytest.approx(multi_similarity_in_logarithms(x, labels), rel=2e-5)
    else:
        assert float(value) == pytest.approx(by_loops(name, x, labels, **options), rel=2e-5)


def multi_similarity_in_logarithms(x, labels):
    """The loops, without an exponential that overflows."""
    s, terms = np.float64(x) @ np.float64(x).T, []
    for i in range(len(labels)):
        positives, negatives = oracles.positives_of(labels, i), oracles.negatives_of(labels, i)
        lowest, highest = s[i, positives].min(), s[i, negatives].max()
        pull = [-2 * (s[i, j] - 0.5) for j in positives if s[i, j] - 0.1 < highest]
        push = [50 * (s[i, k] - 0.5) for k in negatives if s[i, k] + 0.1 > lowest]
        terms.append(np.logaddexp.reduce([0, *pull]) / 2 + np.logaddexp.reduce([0, *push]) / 50)
    return oracles.average(terms)


@each_hard
@pytest.mark.parametrize("per", SCOPES)
def test_mining_by_distance_where_distances_are_small_beside_the_coordinates(per, make):
    for seed in range(3):
        x, labels = make(seed)
        assert mined_by_distance(x, labels, per) == mined_by_loops(x, labels, per)


@each_hard
def test_scores_agree_and_mining_finds_the_hardest_where_distances_are_small(make):
    """Scores to float32's limits; what is mined is as hard as the hardest, to the same."""
    x, labels = make(4, classes=4)
    params = jax.jit(pddm_jax.PDDM(6, 7).init)(jax.random.key(0), x, x)["params"]
    unit, rows = oracles.as_python(params), x.tolist()
    exact = np.array([[oracles.pddm_score_and_scale(unit, a, b) for b in rows] for a in rows])
    scores, scale = exact[..., 0], exact[..., 1].max()
    i, j = np.indices(scores.shape).reshape(2, -1)
    tolerance = 1e-5 * scale
    np.testing.assert_allclose(pddm_jax.score_matrix(params, x), scores, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        pddm_jax.pair_scores(params, x[i], x[j]), scores.ravel(), rtol=0, atol=tolerance
    )
    mined = pddm_jax.mine_quadruplets_fused(params, x, labels, "anchor")
    for image, positive, negative in zip(*(np.asarray(index) for index in mined[:3]), strict=True):
        hardest = min(scores[image][p] for p in oracles.positives_of(labels, image))
        assert scores[image][positive] <= hardest + 2 * tolerance
        hardest = max(scores[image][n] for n in oracles.negatives_of(labels, image))
        assert scores[image][negative] >= hardest - 2 * tolerance


# --------------------------------------------------------------------------------------------- every scale


def mined_by_distance(x, labels, per):
    *indices, valid = jax.jit(mine_by_distance, static_argnums=(2, 3))(
        x, labels.astype(np.int32), per, None
    )
    return [tuple(int(index[slot]) for index in indices) for slot in np.flatnonzero(valid)]


def mined_by_loops(x, labels, per):
    distances = [[oracles.squared_distance(a, b) for b in x.tolist()] for a in x.tolist()]
    return oracles.mine(-np.array(distances), labels, per)


@pytest.mark.parametrize("per", SCOPES)
@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e-20, 1e-10, 1e-6, 1e6, 1e15, 1e18, 1e20, 1e30, 1e38])
def test_mining_by_distance_at_every_scale(size, per):
    x = unit_rows(0) * np.float32(size)
    assert mined_by_distance(x, LABELS, per) == mined_by_loops(x, LABELS, per)


def test_mining_by_distance_of_scales_in_one_batch():
    """Neither the largest nor the smallest sets the scale of the others."""
    for seed in range(5):
        sizes = 10.0 ** np.random.default_rng(seed).integers(-30, 30, (9, 1))
        x = (unit_rows(seed) * sizes).astype(np.float32)
        mined = mined_by_distance(x, LABELS, "anchor")
        assert len(mined) == 8
        for i, j, k, l in mined:  # noqa: E741
            rows = x.tolist()
            # Distances from what is large to all that is small are one number in float32.
            farthest = max(oracles.distance(rows[i], rows[p]) for p in oracles.positives_of(LABELS, i))
            assert oracles.distance(rows[i], rows[j]) == pytest.approx(farthest, rel=1e-6)
            for image, found in ((i, k), (j, l)):
                near = min(
                    oracles.distance(rows[image], rows[n]) for n in oracles.negatives_of(LABELS, image)
                )
                assert oracles.distance(rows[image], rows[found]) == pytest.approx(near, rel=1e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(exponents=st.lists(st.integers(-36, 37), min_size=9, max_size=9), seed=st.integers(0, 99))
def test_distances_at_any_scale(exponents, seed):
    x = (unit_rows(seed) * 10.0 ** np.array(exponents)[:, None]).astype(np.float32)
    exact = np.linalg.norm(np.float64(x)[:, None] - np.float64(x), axis=2)
    np.testing.assert_allclose(DISTANCES(x), exact, rtol=1e-5, atol=1e-37)


@each_loss
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e-6, 1e6, 1e18])
def test_losses_at_every_scale(name, size):
    x = unit_rows(1) * np.float32(size)
    value, gradient = value_and_gradient(name, x, LABELS)
    if size > 1 and name == "multi-similarity":  # the loops overflow
        x, labels = x[:8], LABELS[:8]
        value, gradient = value_and_gradient(name, x, labels)
        expected = multi_similarity_in_logarithms(x, labels)
    elif size > 1 and name == "lifted structure":  # the nearest negative is all of the sum
        expected = lifted_by_maximum(x.tolist(), LABELS)
    else:
        expected = by_loops(name, x, LABELS)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(gradient).all()


def lifted_by_maximum(x, labels):
    terms = []
    for i in range(len(labels)):
        for j in (p for p in oracles.positives_of(labels, i) if p > i):
            near = min(
                oracles.distance(x[a], x[n]) for a in (i, j) for n in oracles.negatives_of(labels, a)
            )
            terms.append(max(0.0, oracles.distance(x[i], x[j]) - near) ** 2)
    return oracles.average(terms) / 2


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "multi-similarity"])
def test_gradients_at_every_scale(name):
    """Far below the margin a gradient grows with the scale, or not at all; so it does far above."""
    x = unit_rows(2)
    power = 1 if name.startswith("triplet") else 0
    for small, large, grows in ((1e-20, 1e-6, power), (1e-30, 1e-6, power), (1e6, 1e18, 1)):
        gradients = [
            np.float64(value_and_gradient(name, x * np.float32(s), LABELS)[1]) for s in (small, large)
        ]
        expected = gradients[1] * (small / large) ** grows
        assert np.abs(gradients[0] - expected).max() <= 1e-4 * np.abs(expected).max()
        assert name == "triplet semihard" or np.abs(expected).max() > 0


@each_loss
@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
def test_a_loss_that_overflows_is_never_a_finite_number(name, size):
    for seed in range(4):
        for labels in (LABELS, np.arange(9), np.zeros(9, int)):
            x = unit_rows(seed) * np.float32(size)
            value, gradient = value_and_gradient(name, x, labels)
            if np.isfinite(value):  # no pair of it comes near the margin
                assert float(value) == 0
                assert labels is not LABELS or name in ("contrastive", "lifted structure")
                assert size == 3e38 or not np.any(gradient)  # where a difference overflows it is NaN
            one = unit_rows(seed)
            one[0] *= np.float32(size)
            value, _ = value_and_gradient(name, one, LABELS)
            assert not np.isfinite(value)


def test_products_that_overflow_alike_mine_something():
    """[3e19, ...] are all products of inf: equal, but not to float64."""
    x = np.array([[3e19, 0], [2e19, 0], [4e19, 0], [3e19, 1e19]], np.float32)
    assert np.isnan(pddm_jax.multi_similarity_loss(x, np.array([0, 0, 1, 1])))


def test_coincident_images_change_no_other():
    """A pair at distance 0 is no underflow: squared distances stay."""
    x = unit_rows(3)
    x[4] = x[1]
    distances = jax.jit(lambda rows: (all_distances(rows).order, all_distances(rows).rooted))(x)
    assert not distances[1]
    np.testing.assert_allclose(
        distances[0], [[oracles.squared_distance(a, b) for b in x] for a in x], rtol=1e-5
    )


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_a_classifier_at_any_scale(size):
    """Cosines know no length: the value is the same, and the gradient that much smaller."""
    x, kernel, classes = unit_rows(5), unit_rows(6, 4, 7), np.arange(9) % 7
    loss = jax.value_and_grad(pddm_jax.softmax_loss)
    (value, gradient), (expected, slope) = (
        loss(kernel * np.float32(size), x, classes),
        loss(kernel, x, classes),
    )
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(np.float64(gradient) * size, slope, rtol=1e-3, atol=1e-5)
