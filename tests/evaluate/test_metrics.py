"""Retrieval metrics and exact nearest neighbours against loops; NMI against counts and scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

import pddm_jax
from pddm_jax.evaluate import measures, metrics
from pddm_jax.evaluate import top_k as search
from tests.helpers import oracles
from tests.helpers.units import random_unit

N, M, WIDTH = 24, 17, 3
KS = (1, 2, 4, 8, 16, 32)  # the last is more than there are others
EXACT = 1e-6


def normal_rows(seed, n=N):
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def integer_rows(seed, n=N):
    """On a grid of 27 points: many distances tie exactly, and many images coincide."""
    return np.random.default_rng(seed).integers(-1, 2, (n, WIDTH)).astype(np.float32)


def some_labels(seed, n=N):
    """Of uneven classes, some with a single image."""
    return np.random.default_rng(seed).choice(
        [-5, 0, 3, 2**40, 7, 8, 9], n, p=[0.4, 0.2, 0.2, 0.05, 0.05, 0.05, 0.05]
    )


@jax.jit
def negative_product(q, g):
    """The best match of x is the image that is most opposite to it."""
    return -q @ g.T


@jax.jit
def first_coordinate(q, g):
    """Not symmetric: whatever the query, by the gallery's first coordinate."""
    return jnp.broadcast_to(g[:, 0], (q.shape[0], g.shape[0]))


def loops_negative_product(x, y):
    return -sum(float(a) * float(b) for a, b in zip(x, y, strict=True))


SCORES = {
    "distance": (None, oracles.negative_squared_distance),
    "negative product": (negative_product, loops_negative_product),
    "first coordinate": (first_coordinate, lambda x, y: float(y[0])),
}
each_score = pytest.mark.parametrize(("score_fn", "score"), SCORES.values(), ids=SCORES.keys())
ROWS = {"random": normal_rows, "tied": integer_rows}
each_rows = pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())


@pytest.fixture(scope="module")
def params():
    return random_unit(WIDTH)


@pytest.fixture(scope="module")
def pddm(params):
    """score_fn, and its loops."""
    plain = oracles.as_python(params)
    return (
        jax.tree_util.Partial(pddm_jax.score_matrix, params),
        lambda x, y: oracles.pddm_score(plain, x, y),
    )


# ----------------------------------------------------------------------------------------------- metrics


@each_rows
@each_score
def test_recall_at_k_against_the_loops(rows, score_fn, score):
    for seed in range(3):
        x, labels = rows(seed), some_labels(seed + 10)
        recall = pddm_jax.recall_at_k(x, labels, ks=KS, score_fn=score_fn)
        assert list(recall) == list(KS)
        assert all(isinstance(share, float) for share in recall.values())
        assert recall == pytest.approx(oracles.recall_at_k(x, labels, KS, score=score), abs=EXACT)


@each_rows
@each_score
def test_recall_at_k_with_a_gallery(rows, score_fn, score):
    x, labels = rows(20), some_labels(21)
    gallery, gallery_labels = rows(22, M), some_labels(23, M)
    gallery[:5] = x[:5]  # these do count: the gallery is not the queries
    recall = pddm_jax.recall_at_k(
        x, labels, ks=KS, gallery=gallery, gallery_labels=gallery_labels, score_fn=score_fn
    )
    expected = oracles.recall_at_k(x, labels, KS, gallery, gallery_labels, score)
    assert recall == pytest.approx(expected, abs=EXACT)


@each_rows
@each_score
def test_map_at_r_and_r_precision_against_the_loops(rows, score_fn, score):
    for seed in range(3):
        x, labels = rows(seed + 30), some_labels(seed + 40)
        found = pddm_jax.map_at_r(x, labels, score_fn=score_fn)
        assert isinstance(found, float)
        assert found == pytest.approx(oracles.map_at_r(x, labels, score), abs=EXACT)
        precision = pddm_jax.r_precision(x, labels, score_fn=score_fn)
        assert isinstance(precision, float)
        assert precision == pytest.approx(oracles.r_precision(x, labels, score), abs=EXACT)
        assert 0 < found < precision


@each_rows
def test_metrics_by_pddm_score(pddm, rows):
    score_fn, score = pddm
    x, labels = rows(50), some_labels(51)
    if rows is integer_rows:
        x = np.unique(x, axis=0)  # scores of copies tie to the bit only on the device
        labels = labels[: len(x)]
    recall = pddm_jax.recall_at_k(x, labels, ks=KS, score_fn=score_fn)
    assert recall == pytest.approx(oracles.recall_at_k(x, labels, KS, score=score), abs=EXACT)
    assert pddm_jax.map_at_r(x, labels, score_fn=score_fn) == pytest.approx(
        oracles.map_at_r(x, labels, score), abs=EXACT
    )
    assert pddm_jax.r_precision(x, labels, score_fn=score_fn) == pytest.approx(
        oracles.r_precision(x, labels, score), abs=EXACT
    )


def test_recall_at_k_defaults_to_the_depths_of_the_papers():
    x, labels = normal_rows(60), some_labels(61)
    recall = pddm_jax.recall_at_k(x, labels)
    assert list(recall) == [1, 2, 4, 8, 16, 32]
    assert recall == pytest.approx(oracles.recall_at_k(x, labels, KS), abs=EXACT)


def test_recall_at_k_of_any_order_of_depths():
    x, labels = normal_rows(62), some_labels(63)
    recall = pddm_jax.recall_at_k(x, labels, ks=[5, 1, 5, 3])
    assert recall == pytest.approx(oracles.recall_at_k(x, labels, [1, 3, 5]), abs=EXACT)


def test_query_is_left_out_by_its_index_where_others_coincide_with_it():
    """All images are one: the nearest others of query q are 0, 1, .. without q."""
    x, labels = np.ones((N, WIDTH), np.float32), np.arange(N) % 3
    # Of each class only the first image misses where the others hit: classes 0, 1 and 2 take turns.
    expected = {1: 7 / 24, 2: 14 / 24, 3: 22 / 24, 4: 23 / 24, 5: 1}
    assert pddm_jax.recall_at_k(x, labels, ks=expected) == pytest.approx(expected, abs=EXACT)
    assert pddm_jax.map_at_r(x, labels) == pytest.approx(oracles.map_at_r(x, labels), abs=EXACT)
    assert pddm_jax.r_precision(x, labels) == pytest.approx(oracles.r_precision(x, labels), abs=EXACT)


def test_a_k_beyond_the_gallery_means_the_whole_gallery():
    """There every query that can be answered has a match."""
    x, labels = normal_rows(73), some_labels(74)
    labels[0] = 1234  # alone in its class: left out
    beyond = pddm_jax.recall_at_k(x, labels, ks=(N - 1, N, 10**6))
    assert beyond == {N - 1: 1.0, N: 1.0, 10**6: 1.0}
    gallery, gallery_labels = x[1:6], labels[1:6]
    recall = pddm_jax.recall_at_k(x, labels, (1, 5, 6, 99), gallery, gallery_labels)
    assert recall[1] < 1
    assert recall[5] == recall[6] == recall[99] == 1
    assert recall == pytest.approx(oracles.recall_at_k(x, labels, recall, gallery, gallery_labels))


def test_copies_of_an_image_are_found():
    """Two copies each: every image's nearest is its copy, although it is itself as near."""
    x = np.concatenate([normal_rows(64, N // 2)] * 2)
    labels = np.tile(np.arange(N // 2), 2)
    assert pddm_jax.recall_at_k(x, labels, ks=(1,)) == {1: 1.0}
    assert pddm_jax.map_at_r(x, labels) == 1
    assert pddm_jax.r_precision(x, labels) == 1


def test_copies_of_another_class_come_first():
    x = np.concatenate([normal_rows(65, N // 2)] * 2)
    labels = np.repeat([0, 1], N // 2)
    assert pddm_jax.recall_at_k(x, labels, ks=(1,)) == {1: 0.0}


def test_map_at_r_and_r_precision_by_hand():
    """On a line: a at 0, 1, 5, b at 2, 3.5, c alone at 9.

    a at 0 sees a b | ..: P = 1, so 1 / 2 (1 + 0); a at 1 sees a b (1, 1: the lower index): 1 / 2;
    a at 5 sees b b: 0; b at 2 sees a: 0; b at 3.5 sees a b or b a, both at 1.5: the lower index, a.
    """
    x = np.array([[0], [1], [5], [2], [3.5], [9]], np.float32)
    labels = np.array([7, 7, 7, 4, 4, 1])
    assert pddm_jax.map_at_r(x, labels) == pytest.approx((1 / 2 + 1 / 2) / 5, abs=EXACT)
    assert pddm_jax.r_precision(x, labels) == pytest.approx((1 / 2 + 1 / 2) / 5, abs=EXACT)


def test_map_at_r_weighs_what_comes_first():
    """R = 3 for the images at 0, 1, 2, 20; their neighbours in order of distance."""
    x = np.array([[0], [1], [2], [20], [18.5]], np.float32)
    labels = np.array([1, 1, 1, 1, 2])
    # 0: 1 2 x | 1: 0 2 x | 2: 1 0 x | 20: x 2 1
    first = (1 + 1) / 3
    last = (1 / 2 + 2 / 3) / 3
    assert pddm_jax.map_at_r(x, labels) == pytest.approx((3 * first + last) / 4, abs=EXACT)
    assert pddm_jax.r_precision(x, labels) == pytest.approx(2 / 3, abs=EXACT)


def test_queries_that_cannot_be_answered_are_left_out(caplog):
    x = np.array([[0.0], [9], [1], [2], [3], [4]], np.float32)
    labels = np.array([0, 0, 1, 2, 3, 4])
    assert pddm_jax.recall_at_k(x, labels, ks=(1, 4, 5)) == {1: 0.0, 4: 0.0, 5: 1.0}
    assert "recall_at_k: 4 of 6 queries are left out" in caplog.text
    labels, x[1] = np.array([0, 0, 1, 2, 3, 4]), x[0]
    assert pddm_jax.map_at_r(x, labels) == 1
    assert pddm_jax.r_precision(x, labels) == 1
    assert "map_at_r: 4 of 6" in caplog.text
    recall = pddm_jax.recall_at_k(x, labels, (1,), gallery=x[1:3], gallery_labels=labels[1:3])
    assert recall == {1: pytest.approx(1.0)}
    assert "recall_at_k: 3 of 6" in caplog.text


@pytest.mark.parametrize("count", [1, N])
def test_refuses_queries_none_of_which_can_be_answered(count):
    x, labels = normal_rows(66, count), np.arange(count)
    for metric in (pddm_jax.recall_at_k, pddm_jax.map_at_r, pddm_jax.r_precision):
        with pytest.raises(ValueError, match=f"labels: none of {count} queries has another image"):
            metric(x, labels)
    with pytest.raises(
        ValueError, match=f"none of {count} queries has an image of its class in the gallery"
    ):
        pddm_jax.recall_at_k(x, labels, gallery=x, gallery_labels=labels + N)


def test_measures_of_each_query():
    x = np.array([[0.0], [1], [3], [7], [15], [31]], np.float32)
    labels = np.array([0, 1, 0, 0, 2, 1])
    found = metrics.query_measures(x, labels, depth=2)
    assert found.relevant.tolist() == [2, 1, 2, 2, 0, 1]
    assert found.first.tolist() == [1, 2, 1, 0, 2, 2]
    assert found.r_precision == pytest.approx([0.5, 0, 0.5, 0.5, 0, 0])
    assert found.map_at_r == pytest.approx([0.25, 0, 0.25, 0.5, 0, 0])
    means = metrics.summarize(found, [1, 2])
    assert means.recall_at_k == pytest.approx({1: 1 / 5, 2: 3 / 5})
    assert means[1:] == pytest.approx((0.3, 0.2, 5, 1))


def test_measures_do_not_depend_on_how_many_queries_are_ranked_at_a_time(monkeypatch):
    x, labels = normal_rows(71, 100), np.random.default_rng(72).integers(0, 3, 100)
    whole = metrics.query_measures(x, labels, depth=4)
    monkeypatch.setattr(measures, "MAX_NEIGHBORS", 7 * max(whole.relevant))
    for one, other in zip(metrics.query_measures(x, labels, depth=4), whole, strict=True):
        assert np.array_equal(one, other)


def test_one_class():
    x, labels = normal_rows(67), np.full(N, -3)
    assert pddm_jax.recall_at_k(x, labels, ks=(1, N, 1000)) == {1: 1.0, N: 1.0, 1000: 1.0}
    assert pddm_jax.map_at_r(x, labels) == 1
    assert pddm_jax.r_precision(x, labels) == 1


def test_labels_beyond_32_bits():
    x = normal_rows(69)
    small = np.random.default_rng(70).integers(0, 4, N)
    huge = np.array([1, 2**32 + 1, -(2**63), 2**63 - 1])[small]
    assert len(np.unique(huge)) == 4
    assert pddm_jax.recall_at_k(x, huge) == pddm_jax.recall_at_k(x, small)
    assert pddm_jax.map_at_r(x, huge) == pddm_jax.map_at_r(x, small)


def test_arrays_of_jax_are_taken_too():
    x, labels = normal_rows(71), np.arange(N) % 5
    assert pddm_jax.recall_at_k(jnp.asarray(x), jnp.asarray(labels)) == pddm_jax.recall_at_k(x, labels)
    assert pddm_jax.map_at_r(jnp.asarray(x), jnp.asarray(labels)) == pddm_jax.map_at_r(x, labels)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_metrics_of_any_ties(seed):
    x, labels = integer_rows(seed), some_labels(seed)
    assert pddm_jax.recall_at_k(x, labels, ks=KS) == pytest.approx(
        oracles.recall_at_k(x, labels, KS), abs=EXACT
    )
    assert pddm_jax.map_at_r(x, labels) == pytest.approx(oracles.map_at_r(x, labels), abs=EXACT)
    assert pddm_jax.r_precision(x, labels) == pytest.approx(oracles.r_precision(x, labels), abs=EXACT)


# ----------------------------------------------------------------------------------------------- nearest


def assert_nearest(actual, queries, gallery, k, score=oracles.negative_squared_distance, exact=False):
    scores, indices = np.asarray(actual[0]), np.asarray(actual[1])
    assert scores.shape == indices.shape == (len(queries), k)
    assert np.issubdtype(indices.dtype, np.integer)
    gallery = np.asarray(gallery).tolist()
    for q, query in enumerate(np.asarray(queries).tolist()):
        expected = oracles.ranked(query, gallery, score)[:k]
        assert indices[q].tolist() == [index for _, index in expected]
        tolerance = 0 if exact else 1e-5 * max(1, max(abs(value) for value, _ in expected))
        np.testing.assert_allclose(scores[q], [value for value, _ in expected], rtol=0, atol=tolerance)


@each_score
@pytest.mark.parametrize("k", [1, 5, M])
def test_nearest_against_the_loops(k, score_fn, score):
    queries, gallery = normal_rows(80), normal_rows(81, M)
    if score_fn is first_coordinate:
        queries = queries[:1].repeat(N, axis=0)
    assert_nearest(pddm_jax.nearest(queries, gallery, k, score_fn), queries, gallery, k, score)


@each_score
def test_nearest_with_ties(score_fn, score):
    for seed in range(3):
        queries, gallery = integer_rows(seed + 82), integer_rows(seed + 90, M)
        found = pddm_jax.nearest(queries, gallery, M, score_fn)
        assert_nearest(found, queries, gallery, M, score, exact=True)


def test_nearest_by_pddm_score(pddm):
    score_fn, score = pddm
    queries, gallery = normal_rows(100), normal_rows(101, M)
    assert_nearest(pddm_jax.nearest(queries, gallery, 5, score_fn), queries, gallery, 5, score)


def test_nearest_of_zeros_of_both_signs():
    """0.0 and -0.0 are one score, so they tie."""
    queries = np.array([[1.0], [-1.0]], np.float32)
    gallery = np.array([[-0.0], [0.0], [-0.0], [0.0], [0.0]], np.float32)
    _, indices = pddm_jax.nearest(queries, gallery, 5, lambda q, g: q * g[:, 0])
    assert np.array_equal(indices, [[0, 1, 2, 3, 4]] * 2)


def test_nearest_where_the_score_rules_images_out():
    """A score of -inf still belongs to an image of the gallery, the last of all."""
    queries = np.ones((2, 1), np.float32)
    gallery = np.array([[-np.inf], [3], [-np.inf], [5], [-np.inf]], np.float32)
    scores, indices = pddm_jax.nearest(queries, gallery, 5, first_coordinate)
    assert np.array_equal(indices, [[3, 1, 0, 2, 4]] * 2)
    assert np.array_equal(scores, [[5, 3, -np.inf, -np.inf, -np.inf]] * 2)


@pytest.mark.parametrize("g", [511, 512, 513, 1024, 1025, 2500])
def test_nearest_in_a_gallery_of_many_blocks(g):
    """Few distinct points, so that ties reach over the blocks."""
    rng = np.random.default_rng(g)
    gallery = rng.integers(-3, 4, (g, 2)).astype(np.float32)
    queries = rng.integers(-3, 4, (3, 2)).astype(np.float32)
    k = min(g, 1200)
    assert_nearest(pddm_jax.nearest(queries, gallery, k), queries, gallery, k, exact=True)
    assert_nearest(pddm_jax.nearest(queries, gallery, 7), queries, gallery, 7, exact=True)


@pytest.mark.parametrize("k", [1, 7, 1200])
def test_nearest_in_a_gallery_of_many_strips(k, monkeypatch):
    """Of many blocks of queries, the first nearer to all: no score of theirs may be left for the others."""
    monkeypatch.setattr(search, "STRIP", 2048)
    rng = np.random.default_rng(k)
    gallery = rng.integers(-3, 4, (5 * 1024 + 3, 2)).astype(np.float32)
    queries = rng.integers(-3, 4, (1100, 2)).astype(np.float32)
    queries[300:] += 50
    scores, index = (np.asarray(x) for x in pddm_jax.nearest(queries, gallery, k))
    distances = np.sum((queries[:, None] - gallery) ** 2, axis=2)
    assert np.array_equal(index, np.argsort(distances, axis=1, kind="stable")[:, :k])
    assert np.array_equal(scores, -np.take_along_axis(distances, index, axis=1))


def test_nearest_of_no_queries():
    scores, index = pddm_jax.nearest(np.zeros((0, 3), np.float32), normal_rows(142, 9)[:, :3], 4)
    assert scores.shape == index.shape == (0, 4)


@pytest.mark.parametrize(("g", "k"), [(40, 40), (1500, 7), (5 * 1024 + 3, 1200)])
def test_nearest_approximately(g, k, monkeypatch):
    """Each has its own score and comes once, best first; without a TPU none is missed."""
    monkeypatch.setattr(search, "STRIP", 2048)
    queries, gallery = normal_rows(140), normal_rows(141, g)
    scores, index = (np.asarray(x) for x in pddm_jax.nearest(queries, gallery, k, approx=True))
    distances = np.sum((queries[:, None].astype(float) - gallery[index]) ** 2, axis=2)
    np.testing.assert_allclose(scores, -distances, rtol=1e-4, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == k for row in index.tolist())
    exact = np.asarray(pddm_jax.nearest(queries, gallery, k)[1])
    found = np.mean([len(set(a) & set(b)) / k for a, b in zip(index.tolist(), exact.tolist(), strict=True)])
    assert found >= (search.RECALL if jax.default_backend() == "tpu" else 1)


ON_EIGHT_DEVICES = """
import jax, numpy as np, pddm_jax
rng = np.random.default_rng(0)
queries, gallery = (rng.integers(-3, 4, (n, 2)).astype(np.float32) for n in (5, 2500))
for k, part in ((1, 2500), (7, 1027), (2499, 2499), (11, 11)):
    scores, index = pddm_jax.nearest(jax.device_put(queries, jax.devices()[3]), gallery[:part], k)
    distances = ((queries[:, None] - gallery[None, :part]) ** 2).sum(-1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    assert np.array_equal(index, order), (k, part)
    assert np.array_equal(scores, -np.take_along_axis(distances, order, axis=1)), (k, part)
print(jax.device_count())
"""


def test_nearest_with_the_gallery_shared_out_over_devices(python):
    status, out, err = python("-c", ON_EIGHT_DEVICES, devices=8)
    assert status == 0, err
    assert out.split() == ["8"]


def test_nearest_where_the_best_is_in_the_last_block():
    gallery = np.arange(2500, dtype=np.float32)[:, None]
    _, indices = pddm_jax.nearest(np.array([[2499.0], [1023.9], [1e5], [-7.0]], np.float32), gallery, 3)
    assert indices.tolist() == [[2499, 2498, 2497], [1024, 1023, 1025], [2499, 2498, 2497], [0, 1, 2]]


def test_nearest_of_scores_below_all_others_in_a_gallery_of_many_blocks():
    """What fills the last block up is not found, however low the scores are."""
    gallery = np.full((1100, 1), -3e38, np.float32)
    scores, indices = pddm_jax.nearest(np.ones((2, 1), np.float32), gallery, 1100, first_coordinate)
    assert np.array_equal(indices, [range(1100)] * 2)
    assert np.all(scores == np.float32(-3e38))


def test_nearest_of_more_queries_than_one_block():
    queries = np.arange(1030, dtype=np.float32)[:, None]
    gallery = np.array([[0], [900], [500], [1029], [500]], np.float32)
    assert_nearest(pddm_jax.nearest(queries, gallery, 3), queries, gallery, 3, exact=True)


def test_recall_at_k_of_more_images_than_one_block():
    """Pairs on a line, 10 apart, partners 1 apart; the first of each pair is of the first half."""
    place = np.arange(600) * 10.0
    x = np.concatenate([place, place + 1])[:, None].astype(np.float32)
    labels = np.tile(np.arange(600), 2)
    assert pddm_jax.recall_at_k(x, labels, ks=(1,)) == {1: 1.0}
    assert pddm_jax.map_at_r(x, labels) == 1
    assert pddm_jax.recall_at_k(x, np.arange(1200) // 2, ks=(1,)) == {1: 0.0}


def test_nearest_to_itself_is_itself():
    x = normal_rows(110)
    scores, indices = pddm_jax.nearest(x, x, 1)
    assert np.array_equal(indices[:, 0], np.arange(N))
    np.testing.assert_allclose(scores, 0, atol=1e-5)


# --------------------------------------------------------------------------------------------------- nmi


def clusters(seed, counts):
    """Rows in clusters that are far apart, in random order, and the cluster of each."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = 100.0 * np.eye(len(counts))
    rows = centres[names] + 0.01 * rng.normal(size=(len(names), len(counts)))
    return rows.astype(np.float32), names


def test_nmi_of_clusters_that_are_the_classes():
    x, names = clusters(120, [10, 20, 5, 13])
    assert pddm_jax.nmi(x, names) == pytest.approx(1, abs=EXACT)
    assert isinstance(pddm_jax.nmi(x, names), float)


def test_nmi_of_fewer_distinct_images_than_classes():
    x = np.array([[0.0, 1.0]] * 6)
    assert pddm_jax.nmi(x, [0, 0, 1, 1, 2, 2]) == 0  # one cluster tells nothing of three classes
    x[3:] = 5
    assert pddm_jax.nmi(x, np.arange(6)) == pytest.approx(2 * np.log(2) / (np.log(6) + np.log(2)))


def test_nmi_names_labels_that_are_no_vector_of_integers():
    x = np.eye(3)
    for wrong in ([[1], [1, 2]], [0, 1], [[0, 1, 2]], [0.0, 1.0, 2.0], None, "abc"):
        with pytest.raises(ValueError, match=r"^labels must "):
            pddm_jax.nmi(x, wrong)


def test_nmi_does_not_depend_on_the_names_of_the_classes():
    x, names = clusters(121, [10, 20, 5, 13])
    mixed = np.where(np.random.default_rng(122).random(len(names)) < 0.3, (names + 1) % 4, names)
    value = pddm_jax.nmi(x, mixed)
    assert 0.1 < value < 0.9
    for renamed in (np.array([2, 0, 3, 1]), np.array([-7, 2**40, 5, 0])):
        assert pddm_jax.nmi(x, renamed[mixed]) == pytest.approx(value, abs=EXACT)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nmi_against_scikit_learn_and_counts(seed):
    x, names = clusters(seed, [12, 6, 9])
    classes = np.where(np.random.default_rng(seed).random(len(names)) < 0.4, (names + 1) % 3, names)
    value = pddm_jax.nmi(x, classes)
    assert value == pytest.approx(normalized_mutual_info_score(classes, names), abs=EXACT)
    assert value == pytest.approx(oracles.nmi(classes.tolist(), names.tolist()), abs=EXACT)
    assert value < 0.9


def test_nmi_depends_on_its_seed_alone():
    x, labels = normal_rows(123), np.arange(N) % 4
    values = {seed: pddm_jax.nmi(x, labels, seed=seed) for seed in range(6)}
    assert values == {seed: pddm_jax.nmi(x, labels, seed=seed) for seed in range(6)}
    assert len(set(values.values())) > 1
    assert pddm_jax.nmi(x, labels) == values[0]


# ------------------------------------------------------------------------------------------------ errors

METRICS = {
    "recall_at_k": pddm_jax.recall_at_k,
    "map_at_r": pddm_jax.map_at_r,
    "r_precision": pddm_jax.r_precision,
    "nmi": pddm_jax.nmi,
}
each_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())


@each_metric
@pytest.mark.parametrize("shape", [(N,), (2, N, WIDTH), ()])
def test_refuses_embeddings_that_are_no_matrix(metric, shape):
    with pytest.raises(ValueError, match=r"\bembeddings\b"):
        metric(np.zeros(shape, np.float32), np.zeros(N, int))


@each_metric
@pytest.mark.parametrize(
    "labels",
    [np.zeros(N - 1, int), np.zeros(N + 1, int), np.zeros((N, 1), int), np.array(1), np.zeros(N)],
    ids=["too few", "too many", "a matrix", "a number", "floats"],
)
def test_refuses_wrong_labels(metric, labels):
    with pytest.raises(ValueError, match=r"\blabels\b"):
        metric(normal_rows(130), labels)


@each_metric
def test_refuses_no_query(metric):
    with pytest.raises(ValueError, match="embeddings must hold at least one"):
        metric(np.zeros((0, WIDTH), np.float32), np.zeros(0, int))


@each_metric
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_refuses_embeddings_that_are_not_finite(metric, value):
    x = normal_rows(139)
    x[[3, 5], 1] = value
    with pytest.raises(ValueError, match=r"\bembeddings\b.*\b2 rows\b.*\b3$"):
        metric(x, np.zeros(N, int))


@pytest.mark.parametrize(
    "ks",
    [
        *((0,), (1, -1), (4, 0, 8), (), 1, (2.0,), np.array([0.5])),
        *((True,), (1, False), np.array([True, True]), (np.bool_(1),), "12", np.array(3), None),
    ],
)
def test_recall_at_k_refuses_what_are_no_depths(ks):
    with pytest.raises(ValueError, match=r"^ks must hold integers of at least 1, got "):
        pddm_jax.recall_at_k(normal_rows(131), np.zeros(N, int), ks=ks)


def test_recall_at_k_refuses_a_gallery_that_does_not_fit():
    x, labels = normal_rows(132), np.zeros(N, int)
    gallery, gallery_labels = normal_rows(133, M), np.zeros(M, int)
    for wrong in (gallery[:, :2], gallery[0], gallery[None]):
        with pytest.raises(ValueError, match=r"\bgallery\b"):
            pddm_jax.recall_at_k(x, labels, gallery=wrong, gallery_labels=gallery_labels)
    for wrong in (gallery_labels[1:], gallery_labels[:, None], gallery_labels + 0.5, None):
        with pytest.raises(ValueError, match=r"\bgallery_labels\b"):
            pddm_jax.recall_at_k(x, labels, gallery=gallery, gallery_labels=wrong)
    with pytest.raises(ValueError, match=r"\bgallery\b"):
        pddm_jax.recall_at_k(x, labels, gallery_labels=labels)


@pytest.mark.parametrize(
    "k", [0, -1, M + 1, 10_000, 2.0, True, False, np.bool_(1), np.float32(2), np.array([True]), None, "3"]
)
def test_nearest_refuses_k_out_of_range(k):
    with pytest.raises(ValueError, match=rf"^k must be an integer in 1..{M}, the size of the gallery, got"):
        pddm_jax.nearest(normal_rows(134), normal_rows(135, M), k)


@pytest.mark.parametrize("shape", [(M,), (1, M, WIDTH), (M, WIDTH + 1), ()])
def test_nearest_refuses_a_gallery_that_does_not_fit(shape):
    with pytest.raises(ValueError, match=r"\bgallery\b"):
        pddm_jax.nearest(normal_rows(136), np.zeros(shape, np.float32), 1)


@pytest.mark.parametrize("shape", [(WIDTH,), (1, M, WIDTH), ()])
def test_nearest_refuses_queries_that_are_no_matrix(shape):
    with pytest.raises(ValueError, match=r"\bqueries\b"):
        pddm_jax.nearest(np.zeros(shape, np.float32), normal_rows(137, M), 1)


def test_nearest_refuses_an_empty_gallery():
    with pytest.raises(ValueError, match=r"\b(k|gallery)\b"):
        pddm_jax.nearest(normal_rows(138), np.zeros((0, WIDTH), np.float32), 1)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nmi_of_nothing_is_refused(shape):
    with pytest.raises(
        ValueError, match=rf"^embeddings must hold .*, got shape \({shape[0]}, {shape[1]}\)$"
    ):
        pddm_jax.nmi(np.zeros(shape), np.zeros(shape[0], int))
