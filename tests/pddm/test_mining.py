"""mine_quadruplets and mine_quadruplets_fused against loops, the same to the index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pddm_jax
from tests.helpers import oracles

SCOPES = ("batch", "anchor", "positive")
B = 9
LABELS = {
    "two classes": [0, 1, 0, 1, 0, 1, 0, 1, 0],
    "blocks": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "singletons beside a class": [5, 7, 5, 9, 5, 1, 2, 3, 4],
    "one positive pair, the last two": [0, 1, 2, 3, 4, 5, 6, 7, 7],
    "all but one of one class": [3, 3, 3, 3, 2, 3, 3, 3, 3],
    "one class": [4] * 9,
    "all different": [8, 7, 6, 5, 4, 3, 2, 1, 0],
    "negative": [-1, -2, -1, 0, -2, 0, 1, -1, 1],
    "not contiguous": [100, -7, 100, 31_000, -7, 31_000, 100, 0, 0],
    "beyond int32": [2**40, 1, 2**32 + 1, 2**40, 1, 2**32 + 1, 2**40 + 2**32, 2**40 + 2**32, -(2**40)],
    "ends of int64": [2**63 - 1, -(2**63), 2**63 - 1, -1, 2**31, -(2**63), -(2**31), 2**31, -1],
}


def symmetric(rng, b, low=-2, high=3):
    """Few integers, so that many scores tie; the zeros are of both signs."""
    upper = np.triu(rng.integers(low, high, (b, b)))
    scores = (upper + np.triu(upper, 1).T).astype(np.float32)
    return np.where((scores == 0) & (rng.random((b, b)) < 0.5), np.float32(-0.0), scores)


def check(quadruplets, slots, images):
    """The documented form; returns the valid (i, j, k, l) in the order of the slots."""
    assert isinstance(quadruplets, pddm_jax.Quadruplets)
    for indices in quadruplets[:4]:
        assert indices.shape == (slots,)
        assert indices.dtype == jnp.int32
        assert np.all((np.asarray(indices) >= 0) & (np.asarray(indices) < images))
    assert quadruplets.valid.shape == (slots,)
    assert quadruplets.valid.dtype == jnp.bool_
    valid = np.asarray(quadruplets.valid)
    return [tuple(int(index[slot]) for index in quadruplets[:4]) for slot in np.flatnonzero(valid)]


def slots_of(per, b):
    return {"batch": 1, "anchor": b, "positive": b * (b - 1) // 2}[per]


def assert_same(actual, expected):
    """To the index in valid slots; the others may hold anything."""
    valid = np.asarray(expected.valid)
    assert np.array_equal(actual.valid, valid)
    for got, want in zip(actual[:4], expected[:4], strict=True):
        assert np.array_equal(np.asarray(got)[valid], np.asarray(want)[valid])


@pytest.fixture(scope="module")
def params():
    x = jnp.zeros(4)
    return jax.jit(pddm_jax.PDDM(hidden=5, joint=6).init)(jax.random.key(0), x, x)["params"]


def unit_rows(seed, n):
    rows = np.random.default_rng(seed).normal(size=(n, 4))
    return jnp.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), jnp.float32)


def with_copies(seed, n):
    """Embeddings that come in exact copies, some of them far apart in the batch."""
    rng = np.random.default_rng(seed)
    return unit_rows(seed, n)[rng.integers(0, max(1, n // 3), n)]


# ------------------------------------------------------------------------------------ against the loops


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize("per", SCOPES)
def test_mining_with_ties(per, labels):
    labels = np.array(labels, np.int64)
    for seed in range(5):
        scores = symmetric(np.random.default_rng(seed), B)
        mined = check(pddm_jax.mine_quadruplets(scores, labels, per=per), slots_of(per, B), B)
        assert mined == oracles.mine(scores, labels, per)


def test_labels_that_agree_in_32_bits_are_of_two_classes():
    labels = np.array([1, 2**32 + 1, 1, 2**32 + 1])
    assert check(pddm_jax.mine_quadruplets(np.zeros((4, 4), np.float32), labels), 1, 4) == [(0, 2, 1, 1)]


@pytest.mark.parametrize("per", SCOPES)
def test_all_scores_equal(per):
    """Everything is a tie: the lowest indices."""
    labels = np.array(LABELS["two classes"])
    mined = check(
        pddm_jax.mine_quadruplets(np.full((B, B), 0.5, np.float32), labels, per), slots_of(per, B), B
    )
    assert mined[0] == (0, 2, 1, 1)
    assert mined == oracles.mine(np.full((B, B), 0.5), labels, per)


@pytest.mark.parametrize("per", SCOPES)
def test_own_score_is_never_chosen(per):
    """The diagonal holds both extremes in turn."""
    labels = np.array(LABELS["blocks"])
    for own in (-1e30, 1e30):
        scores = symmetric(np.random.default_rng(7), B)
        np.fill_diagonal(scores, own)
        mined = check(pddm_jax.mine_quadruplets(scores, labels, per), slots_of(per, B), B)
        assert mined == oracles.mine(scores, labels, per)


@pytest.mark.parametrize("per", SCOPES)
def test_scores_of_any_finite_size(per):
    """The largest finite numbers, as scores of candidates, are no different from others."""
    huge = float(np.finfo(np.float32).max)
    labels = np.array(LABELS["two classes"])
    for score in (huge, -huge):
        scores = np.full((B, B), score, np.float32)
        mined = check(pddm_jax.mine_quadruplets(scores, labels, per), slots_of(per, B), B)
        assert mined == oracles.mine(scores, labels, per)


@pytest.mark.parametrize("per", SCOPES)
def test_matrix_that_is_not_symmetric(per):
    """Rows belong to i for k, and to j for l; a pair is i < j, above the diagonal."""
    labels = np.array(LABELS["two classes"])
    for seed in range(3):
        scores = np.random.default_rng(seed).normal(size=(B, B)).astype(np.float32)
        mined = check(pddm_jax.mine_quadruplets(scores, labels, per), slots_of(per, B), B)
        assert mined == oracles.mine(scores, labels, per)


@pytest.mark.parametrize("per", SCOPES)
def test_batch_of_one(per):
    quadruplets = pddm_jax.mine_quadruplets(np.ones((1, 1), np.float32), np.array([3]), per=per)
    assert check(quadruplets, slots_of(per, 1), 1) == []


@pytest.mark.parametrize("per", SCOPES)
def test_batch_of_two(per):
    for labels in ([1, 1], [1, 2]):
        quadruplets = pddm_jax.mine_quadruplets(np.ones((2, 2), np.float32), np.array(labels), per=per)
        assert check(quadruplets, slots_of(per, 2), 2) == []


def test_slot_of_an_anchor_is_its_own():
    labels = np.array(LABELS["singletons beside a class"])
    quadruplets = pddm_jax.mine_quadruplets(symmetric(np.random.default_rng(0), B), labels, per="anchor")
    assert np.flatnonzero(quadruplets.valid).tolist() == [0, 2, 4]
    assert np.asarray(quadruplets.i)[[0, 2, 4]].tolist() == [0, 2, 4]


def test_hardest_by_hand():
    scores = np.array(
        [
            [9.0, 0.8, 0.3, 0.1, 0.4],
            [0.8, 9.0, 0.2, 0.6, 0.5],
            [0.3, 0.2, 9.0, 0.7, 0.9],
            [0.1, 0.6, 0.7, 9.0, 0.0],
            [0.4, 0.5, 0.9, 0.0, 9.0],
        ],
        np.float32,
    )
    labels = np.array([0, 0, 0, 1, 1])
    mined = {
        per: check(pddm_jax.mine_quadruplets(scores, labels, per), slots_of(per, 5), 5) for per in SCOPES
    }
    assert mined["batch"] == [(3, 4, 2, 2)]
    assert mined["anchor"] == [(0, 2, 4, 4), (1, 2, 3, 4), (2, 1, 4, 3), (3, 4, 2, 2), (4, 3, 2, 2)]
    assert mined["positive"] == [(0, 1, 4, 3), (0, 2, 4, 4), (1, 2, 3, 4), (3, 4, 2, 2)]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    upper=st.lists(st.floats(-100, 100, width=32, allow_subnormal=False), min_size=21, max_size=21),
    labels=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2), min_size=6, max_size=6),
)
def test_any_symmetric_matrix(upper, labels):
    scores = np.zeros((6, 6), np.float32)
    scores[np.triu_indices(6)] = upper
    scores = np.triu(scores) + np.triu(scores, 1).T
    for per in SCOPES:
        mined = check(pddm_jax.mine_quadruplets(scores, np.array(labels), per), slots_of(per, 6), 6)
        assert mined == oracles.mine(scores, labels, per)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_the_batch_only_renames(seed):
    """Without ties, the quadruplets of a permuted batch are the same images."""
    rng = np.random.default_rng(seed)
    scores = np.triu(rng.permutation(B * B).reshape(B, B)).astype(np.float32)
    scores += np.triu(scores, 1).T
    labels, order = rng.integers(0, 3, B), rng.permutation(B)
    mined = check(pddm_jax.mine_quadruplets(scores, labels, "anchor"), B, B)
    again = check(pddm_jax.mine_quadruplets(scores[order][:, order], labels[order], "anchor"), B, B)
    assert sorted(tuple(int(order[index]) for index in found) for found in again) == mined


# -------------------------------------------------------------------------------------------------- size


def test_size_that_fits_exactly():
    labels, scores = np.array(LABELS["blocks"]), symmetric(np.random.default_rng(1), B)
    quadruplets = pddm_jax.mine_quadruplets(scores, labels, per="positive", size=9)
    assert check(quadruplets, 9, B) == oracles.mine(scores, labels, "positive")
    assert np.all(quadruplets.valid)


@pytest.mark.parametrize("size", [1, 4])
def test_size_too_small_keeps_the_first_pairs(size):
    labels, scores = np.array(LABELS["blocks"]), symmetric(np.random.default_rng(2), B)
    mined = check(pddm_jax.mine_quadruplets(scores, labels, per="positive", size=size), size, B)
    assert mined == oracles.mine(scores, labels, "positive")[:size]


def test_size_too_large_leaves_slots_that_are_not_valid(params):
    labels, scores = np.array(LABELS["blocks"]), symmetric(np.random.default_rng(3), B)
    mined = check(pddm_jax.mine_quadruplets(scores, labels, per="positive", size=20), 20, B)
    assert mined == oracles.mine(scores, labels, "positive")


@pytest.mark.parametrize("size", [4, 9, 20])
def test_size_of_the_fused_form(params, size):
    x, labels = unit_rows(10, B), np.array(LABELS["blocks"])
    dense = pddm_jax.mine_quadruplets(pddm_jax.score_matrix(params, x), labels, per="positive", size=size)
    fused = pddm_jax.mine_quadruplets_fused(params, x, labels, per="positive", size=size)
    check(fused, size, B)
    assert_same(fused, dense)


# ------------------------------------------------------------------------------------------- fused form


@pytest.mark.usefixtures("few_tiles_a_step")
@pytest.mark.parametrize("per", SCOPES)
@pytest.mark.parametrize("b", [1, 9, 70])
def test_fused_is_dense_to_the_index(params, b, per):
    rng = np.random.default_rng(b)
    for embeddings in (unit_rows(b, b), with_copies(b, b)):
        for labels in (rng.integers(-3, 3, b), np.zeros(b, np.int64), 2**40 * np.arange(b)):
            fused = pddm_jax.mine_quadruplets_fused(params, embeddings, labels, per=per)
            scores = pddm_jax.score_matrix(params, embeddings)
            assert check(fused, slots_of(per, b), b) == oracles.mine(scores, labels, per)
            assert_same(fused, pddm_jax.mine_quadruplets(scores, labels, per=per))


@pytest.mark.parametrize("per", SCOPES)
def test_fused_where_all_embeddings_are_one(params, per):
    embeddings, labels = jnp.tile(unit_rows(11, 1), (B, 1)), np.array(LABELS["two classes"])
    fused = pddm_jax.mine_quadruplets_fused(params, embeddings, labels, per=per)
    assert check(fused, slots_of(per, B), B) == oracles.mine(np.zeros((B, B)), labels, per)


def test_fused_in_bfloat16(params):
    x, labels = with_copies(12, B), np.array(LABELS["blocks"])
    fused = pddm_jax.mine_quadruplets_fused(params, x, labels, per="anchor", dtype=jnp.bfloat16)
    scores = pddm_jax.score_matrix(params, x, dtype=jnp.bfloat16)
    assert check(fused, B, B) == oracles.mine(scores, labels, "anchor")


def test_fused_takes_numpy_embeddings(params):
    x, labels = unit_rows(13, B), np.array(LABELS["blocks"])
    assert_same(
        pddm_jax.mine_quadruplets_fused(params, np.asarray(x), labels),
        pddm_jax.mine_quadruplets_fused(params, x, labels),
    )


# ------------------------------------------------------------------------------- transforms and gradients


@pytest.mark.parametrize("per", SCOPES)
def test_under_jit_with_labels_on_the_device(params, per):
    labels, scores = jnp.array(LABELS["negative"]), symmetric(np.random.default_rng(4), B)
    jitted = jax.jit(pddm_jax.mine_quadruplets, static_argnames="per")
    assert check(jitted(scores, labels, per=per), slots_of(per, B), B) == oracles.mine(scores, labels, per)
    x = with_copies(14, B)
    jitted = jax.jit(pddm_jax.mine_quadruplets_fused, static_argnames="per")
    mined = check(jitted(params, x, labels, per=per), slots_of(per, B), B)
    assert mined == oracles.mine(pddm_jax.score_matrix(params, x), labels, per)


def test_under_vmap():
    rng = np.random.default_rng(5)
    scores, labels = np.stack([symmetric(rng, B) for _ in range(3)]), rng.integers(0, 3, (3, B))
    mined = jax.vmap(lambda s, c: pddm_jax.mine_quadruplets(s, c, per="anchor"))(
        scores, jnp.asarray(labels)
    )
    for batch in range(3):
        one = pddm_jax.Quadruplets(*(leaf[batch] for leaf in mined))
        assert check(one, B, B) == oracles.mine(scores[batch], labels[batch], "anchor")


def test_no_gradient_through_mined_indices():
    """What is picked by the indices has its own gradient, and nothing else."""
    scores, labels = jnp.asarray(symmetric(np.random.default_rng(6), B)), np.array(LABELS["blocks"])

    def picked(scores):
        quadruplets = pddm_jax.mine_quadruplets(scores, labels, per="batch")
        return scores[quadruplets.i, quadruplets.k].sum()

    ((i, _, k, _),) = oracles.mine(scores, labels, "batch")
    expected = np.zeros((B, B))
    expected[i, k] = 1
    assert np.array_equal(jax.grad(picked)(scores), expected)


def test_no_gradient_through_fused_mining(params):
    x, labels = unit_rows(15, B), np.array(LABELS["blocks"])
    fixed = pddm_jax.mine_quadruplets_fused(params, x, labels, per="anchor")

    def loss(params, x, quadruplets=None):
        if quadruplets is None:
            quadruplets = pddm_jax.mine_quadruplets_fused(params, x, labels, per="anchor")
        return pddm_jax.double_header_hinge(params, x, quadruplets)

    through = jax.grad(loss, argnums=(0, 1))(params, x)
    expected = jax.grad(loss, argnums=(0, 1))(params, x, fixed)
    for got, want in zip(jax.tree.leaves(through), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(got, want)
    assert np.any(through[1])


# ------------------------------------------------------------------------------------------------ errors

SQUARE = np.zeros((4, 4), np.float32)
FOUR = np.array([0, 0, 1, 1])


@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 4, 4), ()])
def test_refuses_scores_that_are_no_square_matrix(shape):
    with pytest.raises(ValueError, match=r"\bscores\b"):
        pddm_jax.mine_quadruplets(np.zeros(shape, np.float32), FOUR)


WRONG_LABELS = {
    "too few": FOUR[:3],
    "too many": np.arange(5),
    "a matrix": FOUR[:, None],
    "a number": np.array(1),
    "fractions": FOUR + 0.5,
    "floats": FOUR.astype(np.float32),
    "words": np.array(["a", "a", "b", "b"]),
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS.keys())
def test_refuses_wrong_labels(params, labels):
    with pytest.raises(ValueError, match=r"\blabels\b"):
        pddm_jax.mine_quadruplets(SQUARE, labels)
    with pytest.raises(ValueError, match=r"\blabels\b"):
        pddm_jax.mine_quadruplets_fused(params, unit_rows(16, 4), labels)


@pytest.mark.parametrize("per", ["pair", "", "Batch", None])
def test_refuses_an_unknown_scope(params, per):
    with pytest.raises(ValueError, match=r"\bper\b.*\banchor\b"):
        pddm_jax.mine_quadruplets(SQUARE, FOUR, per=per)
    with pytest.raises(ValueError, match=r"\bper\b.*\banchor\b"):
        pddm_jax.mine_quadruplets_fused(params, unit_rows(17, 4), FOUR, per=per)


@pytest.mark.parametrize("per", ["batch", "anchor"])
def test_refuses_size_for_another_scope(params, per):
    with pytest.raises(ValueError, match=r"\bsize\b"):
        pddm_jax.mine_quadruplets(SQUARE, FOUR, per=per, size=2)
    with pytest.raises(ValueError, match=r"\bsize\b"):
        pddm_jax.mine_quadruplets_fused(params, unit_rows(18, 4), FOUR, per=per, size=2)


@pytest.mark.parametrize("shape", [(4,), (4, 5), (2, 4, 4)])
def test_fused_refuses_embeddings_that_do_not_fit(params, shape):
    with pytest.raises(ValueError, match=r"\bembeddings\b"):
        pddm_jax.mine_quadruplets_fused(params, jnp.zeros(shape), FOUR)
