"""What is not finite: losses and scores are NaN, mining refuses it, whatever the labels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pddm_jax
from pddm_jax.losses.objectives import OBJECTIVES, make_objective
from pddm_jax.numerics import inverse_sqrt, l2_normalize, safe_sqrt
from pddm_jax.pddm import backends, mining
from pddm_jax.pddm.backends import search_with
from pddm_jax.pddm.kernels import tpu

B, WIDTH = 8, 4
LABELS = {
    "pairs": np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32),
    "the first alone": np.array([9, 0, 1, 1, 2, 2, 1, 0], np.int32),
    "one class": np.zeros(B, np.int32),
    "all different": np.arange(B, dtype=np.int32),
}
each_label = pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
each_bad = pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
SCOPES = ("batch", "anchor", "positive")


def unit_rows(seed, n=B):
    rows = np.random.default_rng(seed).normal(size=(n, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    x = unit_rows(0)
    unit = jax.jit(pddm_jax.PDDM(5, 6).init)(jax.random.key(0), x, x)["params"]
    kernel = np.random.default_rng(1).normal(size=(WIDTH, 10)).astype(np.float32)
    return {"unit": unit, "classifier": {"kernel": jnp.asarray(kernel)}}


@pytest.fixture(scope="module")
def differentiated():
    """By objective: its value, logs and gradients."""
    return {
        name: jax.jit(jax.value_and_grad(make_objective(name)[0], argnums=(0, 1), has_aux=True))
        for name in OBJECTIVES
    }


def spoilt(x, row, bad, column=1):
    x = np.array(x)
    x[row, column] = bad
    return x


def with_leaf(params, layer, name, bad):
    leaf = np.array(params[layer][name])
    leaf[(0,) * leaf.ndim] = bad
    return params | {layer: params[layer] | {name: jnp.asarray(leaf)}}


# ------------------------------------------------------------------------------------------------- losses


@each_label
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_nan_with_its_gradient(name, labels, params, differentiated):
    for bad in (np.nan, np.inf, -np.inf):
        for row in (0, 5):
            x = spoilt(unit_rows(1), row, bad)
            (value, _), (_, gradient) = differentiated[name](params, x, labels)
            assert np.isnan(value), (bad, row)
            assert np.isnan(gradient).all(), (bad, row)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_that_is_not_compiled_is_nan_too(name, params):
    value, _ = make_objective(name)[0](params, spoilt(unit_rows(2), 3, np.nan), LABELS["pairs"])
    assert np.isnan(value)


@each_label
@each_bad
def test_a_loss_is_nan_where_a_parameter_is_not_finite(labels, bad, params, differentiated):
    x, unit = unit_rows(3), params["unit"]
    for layer in unit:
        for name in ("kernel", "bias"):
            wrong = params | {"unit": with_leaf(unit, layer, name, bad)}
            (value, _), (of_params, _) = differentiated["pddm"](wrong, x, labels)
            assert np.isnan(value), (layer, name)
            assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(of_params["unit"]))
    wrong = with_leaf(params, "classifier", "kernel", bad)
    (value, _), _ = differentiated["softmax"](wrong, x, labels)
    assert np.isnan(value)


@each_bad
def test_double_header_hinge_without_a_valid_quadruplet_is_nan(bad, params):
    none = pddm_jax.Quadruplets(*jnp.zeros((4, 3), jnp.int32), jnp.zeros(3, bool))
    empty = pddm_jax.Quadruplets(*jnp.zeros((4, 0), jnp.int32), jnp.zeros(0, bool))
    unit, x = params["unit"], unit_rows(4)
    for mined in (none, empty):
        assert float(pddm_jax.double_header_hinge(unit, x, mined)) == 0
        assert np.isnan(pddm_jax.double_header_hinge(unit, spoilt(x, 7, bad), mined))
        assert np.isnan(pddm_jax.double_header_hinge(with_leaf(unit, "score", "bias", bad), x, mined))
        for margin in ("alpha", "beta", "weight"):
            assert np.isnan(pddm_jax.double_header_hinge(unit, x, mined, **{margin: bad}))


@each_label
@each_bad
def test_a_loss_is_nan_where_a_margin_is_not_finite(labels, bad):
    x = unit_rows(5)
    for mine in ("all", "semihard", "hard"):
        assert np.isnan(pddm_jax.triplet_loss(x, labels, margin=bad, mining=mine))
    assert np.isnan(pddm_jax.contrastive_loss(x, labels, margin=bad))
    assert np.isnan(pddm_jax.lifted_structure_loss(x, labels, margin=bad))
    for name in ("alpha", "beta", "base", "margin"):
        assert np.isnan(pddm_jax.multi_similarity_loss(x, labels, **{name: bad}))


@pytest.mark.parametrize("field", ["i", "j", "k", "l"])
@pytest.mark.parametrize("index", [B, -1, 2**31 - 1, 2**32 + 1])
def test_a_valid_index_that_is_out_of_range_is_nan(field, index, params):
    good = dict(zip("ijkl", np.array([[0], [1], [2], [3]]), strict=True))
    wrong = good | {field: np.array([index])}
    for valid, expected in ((True, np.isnan), (False, lambda value: value == 0)):
        mined = pddm_jax.Quadruplets(**wrong, valid=np.array([valid]))
        assert expected(pddm_jax.double_header_hinge(params["unit"], unit_rows(6), mined))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    row=st.integers(0, B - 1),
    column=st.integers(0, WIDTH - 1),
    bad=st.sampled_from([np.nan, np.inf, -np.inf]),
    labels=st.lists(st.integers(0, 3), min_size=B, max_size=B),
)
def test_any_number_that_is_not_finite(params, differentiated, row, column, bad, labels):
    x = spoilt(unit_rows(7), row, bad, column)
    for name, step in differentiated.items():
        (value, _), _ = step(params, x, np.array(labels, np.int32))
        assert np.isnan(value), name


# ------------------------------------------------------------------------------------------------- scores


@each_bad
def test_scores_are_nan_where_their_pair_is_not_finite(bad, params):
    x, y = spoilt(unit_rows(8), 2, bad), spoilt(unit_rows(9), 5, bad)
    of_pairs = np.isnan(pddm_jax.pair_scores(params["unit"], x, y))
    assert of_pairs.tolist() == [row in (2, 5) for row in range(B)]
    rows, columns = np.indices((B, B))
    alone = np.isnan(pddm_jax.score_matrix(params["unit"], x))
    assert np.array_equal(alone, (rows == 2) | (columns == 2))
    both = np.isnan(pddm_jax.score_matrix(params["unit"], x, y))
    assert np.array_equal(both, (rows == 2) | (columns == 5))
    unit = pddm_jax.PDDM(5, 6)
    assert np.array_equal(np.isnan(unit.apply({"params": params["unit"]}, x, y)), of_pairs)


@each_bad
def test_a_relu_hides_no_infinity_from_a_score(bad):
    """All weights of one sign: the branches of what is infinite are below 0."""
    shapes = {"difference": (1, 2), "mean": (1, 2), "joint": (4, 2), "score": (2, 1)}
    for sign in (1, -1):
        unit = {name: {"kernel": sign * jnp.ones(s), "bias": jnp.ones(s[1])} for name, s in shapes.items()}
        x = np.array([[bad], [0.5]], np.float32)
        assert np.isnan(pddm_jax.pair_scores(unit, x[:1], x[1:])).all()
        assert np.isnan(pddm_jax.score_matrix(unit, x))[[0, 0, 1], [0, 1, 0]].all()


@each_bad
def test_scores_are_nan_where_a_parameter_is_not_finite(bad, params):
    x = unit_rows(10)
    for layer, leaves in params["unit"].items():
        for name in leaves:
            wrong = with_leaf(params["unit"], layer, name, bad)
            assert np.isnan(pddm_jax.pair_scores(wrong, x, x[::-1])).all(), (layer, name)
            assert np.isnan(pddm_jax.score_matrix(wrong, x)).all(), (layer, name)


@pytest.mark.parametrize("size", [1e20, 3e38])
def test_scores_that_overflow_are_nan(size, params):
    """Never those of a branch that is zero."""
    x = unit_rows(11) * np.float32(size)
    assert np.isnan(pddm_jax.pair_scores(params["unit"], x[:4], x[4:])).all()
    assert np.isnan(pddm_jax.score_matrix(params["unit"], x)).all()


def test_norms_of_what_is_not_finite_or_overflows_are_nan():
    bad = jnp.array([jnp.nan, jnp.inf])
    assert np.isnan(inverse_sqrt(bad)).all()
    assert np.isnan(safe_sqrt(bad)[0])
    for row in ([jnp.nan, 1], [jnp.inf, 1], [1e20, 1e20]):
        assert np.isnan(l2_normalize(jnp.array(row))).all()
    assert not np.any(l2_normalize(jnp.zeros(2)))


# ------------------------------------------------------------------------------------------------- mining


def test_mining_names_the_first_score_that_is_not_finite():
    scores = np.arange(B * B, dtype=np.float32).reshape(B, B)
    for bad, said in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")):
        for wrong in (spoilt(scores, 2, bad, 5), jnp.asarray(spoilt(scores, 2, bad, 5))):
            with pytest.raises(ValueError, match=rf"scores must be finite, but \[2, 5\] is {said}"):
                pddm_jax.mine_quadruplets(wrong, LABELS["pairs"])
    with pytest.raises(ValueError, match=r"scores must be finite, but \[3, 3\] is nan"):
        pddm_jax.mine_quadruplets(spoilt(scores, 3, np.nan, 3), LABELS["pairs"])
    huge = np.full((B, B), 1e300)
    with pytest.raises(ValueError, match=r"scores must be finite"):
        pddm_jax.mine_quadruplets(huge, LABELS["pairs"])


@pytest.mark.parametrize("per", SCOPES)
def test_the_diagonal_may_be_infinite(per):
    scores = np.random.default_rng(0).normal(size=(B, B)).astype(np.float32)
    expected = pddm_jax.mine_quadruplets(scores, LABELS["pairs"], per)
    for own in (np.inf, -np.inf):
        np.fill_diagonal(scores, own)
        for found, right in zip(
            pddm_jax.mine_quadruplets(scores, LABELS["pairs"], per), expected, strict=True
        ):
            assert np.array_equal(found, right)


@each_label
def test_fused_mining_names_the_first_row_that_is_not_finite(labels, params):
    for bad in (np.nan, np.inf, -np.inf):
        x = spoilt(spoilt(unit_rows(12), 3, bad), 6, bad)
        with pytest.raises(
            ValueError, match=r"embeddings must be finite, but 2 rows are not: the first is 3"
        ):
            pddm_jax.mine_quadruplets_fused(params["unit"], x, labels)
        wrong = with_leaf(params["unit"], "joint", "kernel", bad)
        with pytest.raises(ValueError, match=r"params must be finite, but \['joint'\]\['kernel'\] is not"):
            pddm_jax.mine_quadruplets_fused(wrong, unit_rows(12), labels)
    with pytest.raises(ValueError, match=r"embeddings overflow"):
        pddm_jax.mine_quadruplets_fused(params["unit"], unit_rows(12) * 1e20, LABELS["pairs"])


def no_images(mined):
    return np.all(mined.valid) and all(np.all(index == 2**31 - 1) for index in mined[:4])


@each_label
@pytest.mark.parametrize("per", SCOPES)
def test_mining_that_jit_traces_leads_to_a_loss_that_is_nan(per, labels, params):
    @jax.jit
    def losses(x, scores, y):
        dense = pddm_jax.mine_quadruplets(scores, y, per)
        fused = pddm_jax.mine_quadruplets_fused(params["unit"], x, y, per)
        return dense, fused, pddm_jax.double_header_hinge(params["unit"], unit_rows(13), dense)

    for bad in (np.nan, np.inf, -np.inf):
        dense, fused, loss = losses(spoilt(unit_rows(13), 0, bad), spoilt(np.eye(B), 0, bad), labels)
        assert no_images(dense)
        assert no_images(fused)
        assert np.isnan(loss)
    dense, fused, loss = losses(unit_rows(13), np.eye(B, dtype=np.float32), labels)
    assert np.isfinite(loss)
    assert not no_images(dense)
    assert not no_images(fused)


def test_mining_under_vmap_and_grad_spoils_its_own_batch_alone(params):
    x = np.stack([unit_rows(14), spoilt(unit_rows(14), 1, np.nan)])
    mine = jax.vmap(
        lambda rows: pddm_jax.mine_quadruplets_fused(params["unit"], rows, LABELS["pairs"], "anchor")
    )
    mined = mine(x)
    assert np.all(np.asarray(mined.i)[1] == 2**31 - 1)
    alone = pddm_jax.mine_quadruplets_fused(params["unit"], x[0], LABELS["pairs"], "anchor")
    assert np.array_equal(mined.k[0], alone.k)


def test_the_kernel_for_tpus_says_so(params, monkeypatch):
    """By values: the maximum of what holds NaN is NaN."""
    monkeypatch.setattr(tpu, "TILE", 16)
    backend = backends.TPUBackend(16, interpret=True)
    kernel = jax.jit(partial(search_with, backend=backend, dtype="float32"))
    for bad in (np.nan, np.inf, -np.inf):
        found = kernel(params["unit"], spoilt(unit_rows(15), 2, bad), jnp.asarray(LABELS["pairs"]))
        negative = np.isnan(found.negative.value)
        assert negative.tolist() == [row != 3 for row in range(B)]  # of the same class as row 2
        assert np.isnan(found.positive.value)[[2, 3]].all()


def test_the_compiled_step_is_one(params):
    """Margins, labels and embeddings are arguments of it."""
    counted = (mining.mine, mining.mine_fused)
    for step in range(4):
        x = unit_rows(20 + step)
        pddm_jax.mine_quadruplets_fused(params["unit"], x, LABELS["pairs"], "anchor")
        pddm_jax.mine_quadruplets(x @ x.T, LABELS["pairs"], "anchor")
        if not step:
            before = [function._cache_size() for function in counted]
    assert [function._cache_size() for function in counted] == before
