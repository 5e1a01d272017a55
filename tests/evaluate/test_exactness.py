"""Neighbours by distance against all differences in float64, where float32 alone would go wrong."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import pddm_jax
from pddm_jax.evaluate import euclidean, measures, metrics
from pddm_jax.evaluate import top_k as search

SCALES = (1e-44, 1e-40, 1e-30, 1e-20, 1e-6, 1.0, 1e6, 1e18, 1e20, 1e30, 1e37)


def by_differences(queries, gallery, k):
    """Indices by a stable sort of squared distances in float64; and all these, times a power of two."""
    largest = max(float(np.abs(x).max()) for x in (queries, gallery))
    exponent = int(np.frexp(largest)[1])
    queries, gallery = (np.ldexp(x.astype(np.float64), -exponent) for x in (queries, gallery))
    distances = np.array([((gallery - q) ** 2).sum(axis=1) for q in queries])
    return np.argsort(distances, axis=1, kind="stable")[:, :k], distances, exponent


def assert_exact(queries, gallery, k):
    """The order of float64, but for distances that differ by its rounding alone."""
    wanted, distances, exponent = by_differences(queries, gallery, k)
    scores, found = (np.asarray(x) for x in pddm_jax.nearest(queries, gallery, k))
    here, there = (np.take_along_axis(distances, index, axis=1) for index in (found, wanted))
    np.testing.assert_allclose(here, there, rtol=1e-14, atol=0)
    assert ((found == wanted) | (here != there)).all()
    assert all(len({*row}) == k for row in found.tolist())
    with np.errstate(over="ignore", under="ignore"):
        expected = -np.ldexp(there.astype(np.longdouble), 2 * exponent).astype(np.float32)
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=2e-38)


def super_classes(offset, dtype=np.float32, seed=0):
    """Ten classes of five points; half of the classes are moved far away."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.02, (10, 1, 8)) + rng.normal(0, 0.002, (10, 5, 8))
    x[5:] += offset
    return x.reshape(50, 8).astype(dtype), np.repeat(np.arange(10), 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0, 10, 30, 50, 1000, -20_000])
def test_classes_that_lie_far_from_each_other(offset, dtype):
    x, labels = super_classes(offset, dtype)
    assert_exact(x, x, 7)
    index, *_ = by_differences(x, x, 5)
    match = (labels[index] == labels[:, None]) & (index != np.arange(50)[:, None])
    assert pddm_jax.r_precision(x, labels) == pytest.approx(match.sum() / 200, abs=1e-12)


def test_recall_of_the_known_case():
    x, labels = super_classes(50)
    assert pddm_jax.recall_at_k(x, labels, ks=(1,)) == {1: 1.0}
    assert pddm_jax.recall_at_k(jnp.asarray(x), labels, ks=(1,)) == {1: 1.0}


def test_offsets_beyond_float32_are_right_in_float64():
    x, labels = super_classes(1e6, np.float64)
    assert_exact(x, x, 7)
    assert pddm_jax.map_at_r(x, labels) == pytest.approx(
        pddm_jax.map_at_r(super_classes(0, np.float64)[0], labels)
    )


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_unit_vectors_in_two_tight_super_classes(spread):
    rng = np.random.default_rng(1)
    centres = np.repeat(np.eye(2, 64), 10, axis=0)[:, None] + rng.normal(0, spread, (20, 1, 64))
    x = (centres + rng.normal(0, spread / 10, (20, 20, 64))).reshape(400, 64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert_exact(x.astype(np.float32), x.astype(np.float32), 21)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("count", [12, 700])
def test_every_scale(scale, count):
    x = (np.random.default_rng(2).normal(size=(count, 5)) * scale).astype(np.float32)
    assert_exact(x[:12], x, 12)
    assert_exact(x[:12].astype(np.float64), x.astype(np.float64) / 3, 5)


def test_scales_beyond_float32():
    rng = np.random.default_rng(3)
    for scale in (1e-300, 1e-160, 1e160, 1e300):
        x = rng.normal(size=(40, 3)) * scale
        assert_exact(x, x, 6)


def test_scales_that_are_mixed():
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(60, 4)) * np.repeat([1e-18, 1.0, 1e15], 20)[:, None]).astype(np.float32)
    for k in (3, 60):
        wanted, distances, _ = by_differences(x, x, k)
        found = pddm_jax.nearest(x, x, k)[1]
        here, there = (
            np.take_along_axis(distances, index, axis=1) for index in (np.asarray(found), wanted)
        )
        np.testing.assert_allclose(here, there, rtol=1e-14, atol=0)
        assert all(len({*row}) == k for row in found.tolist())


def test_coordinates_that_centering_would_round_to_a_grid():
    """Float32 about -1000 tells the points near 1 apart by less than its rounding."""
    line = (1 + np.arange(200) * 2.0**-23).astype(np.float32)
    gallery = np.concatenate([np.full(1000, -1000, np.float32), line])[:, None]
    _, index = pddm_jax.nearest(gallery[[1150, 1003 + 60]], gallery, 1)
    assert index.tolist() == [[1150], [1063]]
    gallery = np.concatenate([np.zeros(300), 1 + np.arange(200) * 1e-12])[:, None]
    assert pddm_jax.nearest(gallery[[340]], gallery, 1)[1].tolist() == [[340]]


def test_one_large_row_does_not_hide_the_others():
    x = np.random.default_rng(9).normal(size=(40, 3)).astype(np.float32)
    for large in (3e38, 7.5e37, 1e15):
        x[0] = large
        assert_exact(x[1:], x, 4)
    small = np.array([[1e30], [4e-20], [1e-20], [2e-20]], np.float32)
    assert_exact(small[1:], small, 3)


def test_subnormal_numbers_beside_normal_ones():
    x = np.array([[1], [7e-40], [1e-40], [3e-40]], np.float32)
    for kind in (np.asarray, jnp.asarray):
        assert pddm_jax.nearest(kind(x)[1:], kind(x), 3)[1].tolist() == [[1, 3, 2], [2, 3, 1], [3, 2, 1]]


def test_arrays_of_the_device_that_float32_does_not_hold():
    x = jnp.array([[2**24], [2**24 + 1], [2**24 + 2]], jnp.int32)
    assert pddm_jax.nearest(x, x, 1)[1].tolist() == [[0], [1], [2]]
    with jax.enable_x64(True):
        x = jnp.array([[1e6], [1e6 + 1e-3], [1e6 + 3e-3], [1e40]], jnp.float64)
        assert pddm_jax.nearest(x, x, 2)[1].tolist() == [[0, 1], [1, 0], [2, 1], [3, 0]]


def test_approximate_ranking_is_exact_but_on_a_tpu():
    x, _ = super_classes(50)
    if jax.default_backend() != "tpu":
        for one, other in zip(
            pddm_jax.nearest(x, x, 5, approx=True), pddm_jax.nearest(x, x, 5), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_no_queries_have_no_neighbours_however_deep():
    x = np.zeros((2000, 3), np.float32)
    for score_fn in (None, lambda q, g: q @ g.T):
        for k in (1, 1000):
            scores, index = pddm_jax.nearest(x[:0], x, k, score_fn)
            assert scores.shape == index.shape == (0, k)


def test_within_jit_without_arguments():
    x, _ = super_classes(50)
    found = jax.jit(lambda: pddm_jax.nearest(x, x, 2)[1])()
    assert np.array_equal(found, by_differences(x, x, 2)[0])


def test_strict_promotion():
    x, _ = super_classes(50)
    with jax.numpy_dtype_promotion("strict"):
        assert_exact(x, x, 3)


@pytest.mark.parametrize("k", [3, 700])
def test_scores_are_float32_whatever_the_score_function_returns(k):
    x = np.random.default_rng(10).normal(size=(1500, 3)).astype(np.float32)
    scores, _ = pddm_jax.nearest(x[:4], x, k, lambda q, g: (q @ g.T).astype(jnp.bfloat16))
    assert scores.dtype == jnp.float32


def test_embeddings_without_a_coordinate():
    assert (
        pddm_jax.nearest(np.zeros((3, 0), np.float32), np.zeros((9, 0), np.float32), 2)[1].tolist()
        == [[0, 1]] * 3
    )


def test_neighbours_of_rows_in_any_order():
    x = np.array([[0.0], [1], [10], [12]])
    assert metrics.nearest_others(x, np.array([2, 0, 3, 1]), 1).tolist() == [[3], [1], [2], [0]]
    assert metrics.nearest_others(x, np.array([3]), 2).tolist() == [[2, 1]]


def test_a_depth_that_was_not_searched_is_refused():
    x, labels = super_classes(0)
    found = metrics.query_measures(x, labels, depth=2)
    with pytest.raises(ValueError, match="ks must be at most the depth of the measures, 2, got 4"):
        metrics.summarize(found, [1, 4])


def test_a_distance_beyond_float32_is_infinite_and_ranked():
    x = np.array([[0.0], [1e30], [-3e30], [2e30]], np.float32)
    scores, index = pddm_jax.nearest(x[:1], x, 4)
    assert index.tolist() == [[0, 1, 3, 2]]
    assert scores.tolist() == [[0, -np.inf, -np.inf, -np.inf]]


@pytest.mark.parametrize("make", [lambda n: np.eye(n, 48), lambda n: np.arange(n * 48).reshape(n, 48) % 3])
def test_many_equal_distances_go_to_the_lowest_index(make):
    x = make(600).astype(np.float32)
    assert_exact(x[:64], x, 9)
    assert_exact(x[:64] + np.float32(0.1), x + np.float32(0.1), 9)


def test_copies_beyond_the_candidates():
    """Hundreds of equal vectors, of any digits, in the order of their index."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3, 33)).astype(np.float32)[rng.integers(0, 3, 700)]
    assert_exact(x[:40], x, 300)
    assert_exact(x[:40], x, 3)


def test_each_pass_is_reached(monkeypatch):
    reached = []
    search = euclidean._search
    monkeypatch.setattr(
        euclidean, "_search", lambda step, *given: reached.append(step) or search(step, *given)
    )
    rng = np.random.default_rng(6)
    spread = rng.normal(size=(500, 16)).astype(np.float32)
    pddm_jax.nearest(spread, spread, 3)
    assert reached == [euclidean.PASSES[0]]
    reached.clear()
    tight = np.concatenate([spread * np.float32(1e-3) + 9, spread])
    assert_exact(tight[:100], tight, 3)
    assert reached == [*euclidean.PASSES[:2]]
    reached.clear()
    copies = np.repeat(spread[:5], 100, axis=0)
    assert_exact(copies[:100], copies, 3)
    assert reached == [*euclidean.PASSES]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(-35, 35),
    offset=st.floats(-8, 8),
    near=st.floats(-9, 0),
    k=st.sampled_from([1, 8]),
)
@example(seed=0, scale=20, offset=0, near=-3, k=8)
def test_any_clusters_at_any_scale(seed, scale, offset, near, k):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 6)) + rng.choice([0, 10.0**offset], (4, 1))
    x = centres[rng.integers(0, 4, 32)] + rng.normal(size=(32, 6)) * 10.0**near
    x[rng.integers(0, 32, 6)] = x[0]
    with np.errstate(over="ignore"):
        x = (x * 10.0**scale).astype(np.float32)
    if np.isfinite(x).all():
        assert_exact(x[:8], x, k)


@pytest.mark.parametrize("kind", ["normal", "codes"])
def test_deep_rankings(kind):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(1500, 3)) if kind == "normal" else rng.integers(0, 3, (1500, 3))
    assert_exact(x[:20].astype(np.float32) + 40, x.astype(np.float32) + 40, 700)
    scores, index = pddm_jax.nearest(x[:20], x, 700, lambda q, g: q @ g.T)
    q, g = (y.astype(np.float32) for y in (x[:20], x))
    if kind == "codes":
        assert np.array_equal(index, np.argsort(-(q @ g.T), axis=1, kind="stable")[:, :700])
    assert np.all(np.diff(scores, axis=1) <= 0)


def test_under_jit_by_differences_in_float32():
    x, _ = super_classes(50)
    index = jax.jit(lambda q, g: pddm_jax.nearest(q, g, 3))(x, x)[1]
    assert np.array_equal(index, by_differences(x, x, 3)[0])
    x[7, 0] = np.nan
    assert np.isnan(jax.jit(lambda q, g: pddm_jax.nearest(q, g, 3))(x, x)[0]).any(axis=1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda x: x.astype(np.float64)])
def test_nearest_refuses_what_is_not_finite(value, kind):
    x, _ = super_classes(0)
    bad = x.copy()
    bad[[3, 9], 2] = value
    with pytest.raises(ValueError, match=r"queries must be finite, but 2 rows are not: the first is 3"):
        pddm_jax.nearest(kind(bad), kind(x), 2)
    with pytest.raises(ValueError, match=r"gallery must be finite, but 2 rows are not: the first is 3"):
        pddm_jax.nearest(kind(x), kind(bad), 2)


def test_nearest_refuses_scores_without_a_rank():
    x, _ = super_classes(0)
    x[4] = np.nan
    with pytest.raises(ValueError, match=r"score_fn gives NaN.* for 50 queries, the first is 0"):
        pddm_jax.nearest(super_classes(0)[0], x, 2, lambda q, g: q @ g.T)


@pytest.mark.parametrize(
    "score_fn", [lambda q, g: q @ q.T, lambda q, g: (q @ g.T)[0], lambda q, g: g @ q.T]
)
def test_nearest_refuses_a_score_of_another_shape(score_fn):
    x, _ = super_classes(0)
    with pytest.raises(ValueError, match=r"^score_fn must return an array of shape \[1, 50\] .*, got \[\d"):
        pddm_jax.nearest(x[:7], x, 2, score_fn)
    with pytest.raises(ValueError, match=r"^score_fn must return an array of shape \[2, 1\] .*, got \["):
        pddm_jax.nearest(x[:1], x[:1], 1, score_fn)  # [a, b] is not [b, a], even of one image


@pytest.mark.parametrize("score_fn", [None, lambda q, g: q @ g.T])
def test_nearest_names_the_shapes_that_do_not_fit(score_fn):
    x = np.ones((24, 5))
    with pytest.raises(ValueError, match=r"of one width, got \(24, 5\) and \(24, 64\)$"):
        pddm_jax.nearest(x, np.ones((24, 64)), 3, score_fn)
    with pytest.raises(ValueError, match=r"queries must be a matrix \[n, d\], got shape \(24, 8, 8\)"):
        pddm_jax.nearest(np.ones((24, 8, 8)), x, 3, score_fn)


@pytest.mark.parametrize(
    ("score_fn", "found"),
    [
        (lambda q, g: None, "NoneType"),
        (lambda q, g: 1.0, "float"),
        (lambda q, g: (q @ g.T, q), "tuple"),
        (lambda q, g: [[0.0] * 50], "list"),
        (lambda q, g: "near", "str"),
    ],
)
def test_nearest_refuses_a_score_that_is_not_an_array(score_fn, found):
    x, _ = super_classes(0)
    with pytest.raises(ValueError, match=rf"^score_fn .* array of shape \[1, 50\] .*, got {found}$"):
        pddm_jax.nearest(x[:7], x, 2, score_fn)


def test_nearest_refuses_a_score_that_jax_cannot_trace():
    x, _ = super_classes(0)
    with pytest.raises(ValueError, match=r"^score_fn must compute with jax\.numpy"):
        pddm_jax.nearest(x[:7], x, 2, lambda q, g: np.asarray(q) @ np.asarray(g).T)
    with pytest.raises(ValueError, match=r"^score_fn must be a function .*, got 3$"):
        pddm_jax.nearest(x[:7], x, 2, 3)


def test_memory_does_not_grow_with_the_classes(monkeypatch):
    """Two classes of 2,000 images: what is held is far below n times the size of a class."""
    monkeypatch.setattr(measures, "MAX_NEIGHBORS", 2**16)
    monkeypatch.setattr(search, "CPU_MAX_SCORES", 2**16)
    x, labels = np.random.default_rng(7).normal(size=(4000, 4)).astype(np.float32), np.arange(4000) % 2
    tracemalloc.start()
    pddm_jax.map_at_r(x, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 2000


def test_no_query_finds_nothing_whatever_the_gallery_holds():
    scores, index = pddm_jax.nearest(np.zeros((0, 2)), np.full((12, 2), 1e300), 1)
    assert scores.shape == index.shape == (0, 1)
