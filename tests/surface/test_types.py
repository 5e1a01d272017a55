"""One rule for types, for nothing, and for arguments that cannot be."""

from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import pddm_jax
from pddm_jax.losses.objectives import OBJECTIVES, make_objective
from pddm_jax.pddm import backends
from pddm_jax.pddm.backends import search_with
from pddm_jax.pddm.kernels import tpu

B, WIDTH = 9, 4
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 5])
UNIT = pddm_jax.PDDM(5, 6)
SCOPES = ("batch", "anchor", "positive")
LOSSES = {
    "contrastive": pddm_jax.contrastive_loss,
    "lifted structure": pddm_jax.lifted_structure_loss,
    "multi-similarity": pddm_jax.multi_similarity_loss,
    **{f"triplet {m}": partial(pddm_jax.triplet_loss, mining=m) for m in ("all", "semihard", "hard")},
}


def unit_rows(seed, n=B):
    rows = np.random.default_rng(seed).normal(size=(n, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    x = unit_rows(0)
    unit = jax.jit(UNIT.init)(jax.random.key(0), x, x)["params"]
    kernel = np.random.default_rng(1).normal(size=(WIDTH, 10)).astype(np.float32)
    return jax.tree.map(np.asarray, {"unit": unit, "classifier": {"kernel": kernel}})


def everything(params, x, labels, number=float):
    """What public functions return, by name; `number` is the type of margins."""
    unit = params["unit"]
    mined = {per: pddm_jax.mine_quadruplets_fused(unit, x, labels, per) for per in SCOPES}
    found = {f"{name}": loss(x, labels, margin=number(0.25)) for name, loss in LOSSES.items()}
    found["softmax"] = pddm_jax.softmax_loss(
        params["classifier"]["kernel"], x, labels, temperature=number(0.25)
    )
    found["score_matrix"] = pddm_jax.score_matrix(unit, x)
    found["score_matrix of two"] = pddm_jax.score_matrix(unit, x, x[:3])
    found["score_matrix in bfloat16"] = pddm_jax.score_matrix(unit, x, dtype="bfloat16")
    found["score_matrix of nothing"] = pddm_jax.score_matrix(unit, x[:0])
    found["pair_scores"] = pddm_jax.pair_scores(unit, x, x[::-1])
    found["unit"] = UNIT.apply({"params": unit}, x, x[::-1])
    for per in SCOPES:
        options = {"alpha": number(0.25), "beta": number(0.5), "weight": number(2)}
        found[f"hinge {per}"] = pddm_jax.double_header_hinge(unit, x, mined[per], **options)
        found[f"fused {per}"] = mined[per]
        found[f"mined {per}"] = pddm_jax.mine_quadruplets(found["score_matrix"], labels, per)
        found[f"nothing {per}"] = pddm_jax.mine_quadruplets(np.zeros((0, 0)), [], per)
    found["sized"] = pddm_jax.mine_quadruplets_fused(unit, x, labels, "positive", size=7)
    return found


def objectives(params, x, labels, number=float):
    """Likewise, of all objectives."""
    found = {}
    for name in OBJECTIVES:
        found[f"objective {name}"] = make_objective(name)[0](params, x, labels)
    found["added"] = make_objective("quadruplet", softmax=number(0.5), beta=number(1))[0](params, x, labels)
    return found


def assert_types(found):
    for name, tree in found.items():
        for leaf in jax.tree.leaves(tree):
            expected = (jnp.float32,)
            if isinstance(tree, pddm_jax.Quadruplets):
                expected = (jnp.bool_ if leaf is tree.valid else jnp.int32,)
            assert leaf.dtype in expected, (name, leaf.dtype)


def assert_close(found, expected):
    for name in expected:
        for got, want in zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected[name]), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5, err_msg=name)


# -------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    "functions",
    [pytest.param(everything, marks=pytest.mark.long), pytest.param(objectives, marks=pytest.mark.long)],
    ids=["public", "objectives"],
)
def test_everything_is_float32_where_the_default_is_float64(functions, params):
    x = unit_rows(1)
    expected = functions(params, x, LABELS)
    assert_types(expected)
    with jax.enable_x64(True):
        assert jnp.zeros(()).dtype == jnp.float64
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        for given, number in ((wide, np.float64), ((params, x), float)):
            given = *given, jnp.asarray(LABELS), number
            found = functions(*given)
            assert_types(found)
            assert_close(found, expected)


@pytest.mark.parametrize(
    "name", ["contrastive", *(pytest.param(x, marks=pytest.mark.long) for x in ("pddm", "softmax"))]
)
def test_gradients_have_the_type_of_what_they_are_of(name, params):
    x = unit_rows(2)
    step = jax.jit(jax.value_and_grad(make_objective(name)[0], argnums=(0, 1), has_aux=True))
    (value, _), expected = step(params, x, LABELS)
    with jax.enable_x64(True):
        narrow = step(jax.tree.map(jnp.asarray, params), jnp.asarray(x), jnp.asarray(LABELS))
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, x))
        of_wide = step(*wide, jnp.asarray(LABELS))
    for ((same, _), found), dtype in ((narrow, jnp.float32), (of_wide, jnp.float64)):
        assert same.dtype == jnp.float32
        assert float(same) == pytest.approx(float(value), rel=1e-5)
        for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_fresh_unit_is_the_same_where_the_default_is_float64():
    x = unit_rows(3)
    with jax.enable_x64(True):
        wide = UNIT.init(jax.random.key(5), x.astype(np.float64), x.astype(np.float64))["params"]
    expected = UNIT.init(jax.random.key(5), x, x)["params"]
    for got, want in zip(jax.tree.leaves(wide), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype == jnp.float32
        assert got.shape == want.shape


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.longdouble, np.int8, np.int64]
)
def test_any_type_of_numbers_is_brought_to_float32_first(dtype, params):
    x = np.round(unit_rows(4) * 3).astype(dtype)
    found = everything(params, x, LABELS)
    assert_types(found)
    assert_close(found, everything(params, x.astype(np.float32), LABELS))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_labels_of_any_type_of_integers(dtype, params):
    x, expected = unit_rows(5), everything(params, unit_rows(5), LABELS)
    assert_close(everything(params, x, LABELS.astype(dtype)), expected)
    assert_close(everything(params, x, LABELS.tolist()), expected)


def test_wide_labels_of_the_device_are_told_apart(params):
    with jax.enable_x64(True):
        labels = jnp.array([1, 2**32 + 1, 1, 2**32 + 1])
        for mine in (pddm_jax.mine_quadruplets, jax.jit(pddm_jax.mine_quadruplets)):
            mined = mine(jnp.zeros((4, 4)), labels)
            assert [int(index[0]) for index in mined[:4]] == [0, 2, 1, 1]


def test_the_kernel_for_tpus_where_the_default_is_float64(params, monkeypatch):
    monkeypatch.setattr(tpu, "TILE", 16)
    batch = params["unit"], unit_rows(6), LABELS
    backend = backends.TPUBackend(16, interpret=True)
    expected = search_with(*batch, backend=backends.PLAIN, dtype="float32")
    with jax.enable_x64(True):
        kernel = jax.jit(partial(search_with, backend=backend, dtype="float32"))
        found = kernel(params["unit"], unit_rows(6), LABELS.astype(np.int32))
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, atol=1e-6)


# ------------------------------------------------------------------------------------------------ nothing


@pytest.mark.parametrize("n", [0, 1])
def test_an_empty_batch_and_one_image_are_0(n, params):
    x, labels = unit_rows(7)[:n], LABELS[:n]
    for name in OBJECTIVES:
        step = jax.value_and_grad(make_objective(name)[0], argnums=(0, 1), has_aux=True)
        for run in (step, jax.jit(step)) if name == "pddm" and not n else (step,):
            (value, logs), gradients = run(params, x, labels)
            assert value.shape == ()
            assert value.dtype == jnp.float32
            if name != "softmax" or not n:
                assert float(value) == 0
                assert all(float(log) == 0 for log in logs.values())
                assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))
            assert gradients[1].shape == x.shape
    for name, loss in LOSSES.items():
        value, gradient = jax.value_and_grad(loss)(x, labels)
        assert float(value) == 0, name
        assert gradient.shape == x.shape
        assert not np.any(gradient)
        assert float(loss(np.zeros((n, 0), np.float32), labels)) == 0


def test_classification_into_no_class_is_nan_and_of_nothing_0():
    none = np.zeros((WIDTH, 0), np.float32)
    assert np.isnan(pddm_jax.softmax_loss(none, unit_rows(8), LABELS))
    assert float(pddm_jax.softmax_loss(none, unit_rows(8)[:0], [])) == 0


@pytest.mark.parametrize("labels", [np.zeros(B, int), np.arange(B)], ids=["one class", "all different"])
def test_no_valid_slot(labels, params):
    for per in SCOPES:
        mined = pddm_jax.mine_quadruplets_fused(params["unit"], unit_rows(9), labels, per)
        assert not np.any(mined.valid)
        assert float(pddm_jax.double_header_hinge(params["unit"], unit_rows(9), mined)) == 0
    for name in ("pddm", "pddm_triplet", "quadruplet"):
        value, logs = make_objective(name)[0](params, unit_rows(9), labels)
        assert float(value) == float(logs["valid_quadruplets"]) == 0


def test_quadruplets_of_an_empty_batch(params):
    empty = unit_rows(10)[:0]
    for slots, valid, expected in ((0, True, 0), (2, False, 0), (2, True, np.nan)):
        mined = pddm_jax.Quadruplets(*np.zeros((4, slots), np.int32), np.full(slots, valid))
        value = pddm_jax.double_header_hinge(params["unit"], empty, mined)
        np.testing.assert_equal(float(value), float(expected))


@pytest.mark.parametrize(("per", "slots"), [("batch", 1), ("anchor", 8), ("positive", 7)])
def test_valid_quadruplets_are_counted(per, slots, params):
    """Classes of three, three and two; an image alone."""
    for name in ("pddm", "pddm_triplet", "quadruplet"):
        for pairs in (None, 10):
            _, logs = make_objective(name, pairs=pairs, mining_scope=per)[0](params, unit_rows(11), LABELS)
            assert float(logs["valid_quadruplets"]) == slots
            assert logs["valid_quadruplets"].dtype == jnp.float32


# ------------------------------------------------------------------------------------ what cannot be given

SQUARE = np.zeros((4, 4), np.float32)
FOUR = np.array([0, 0, 1, 1])
WRONG_LABELS = {
    "bools": np.array([True, True, False, False]),
    "a list of bools": [True, True, False, False],
    "bools of the device": jnp.array([True, True, False, False]),
    "nan": np.array([0, 0, 1, np.nan]),
    "floats of the device": jnp.array([0.0, 0.0, 1.0, 1.0]),
    "text": ["a", "a", "b", "b"],
    "bytes": np.array([b"a", b"a", b"b", b"b"]),
    "None": None,
    "objects": np.array([0, 0, None, 1]),
    "uneven rows": [[0], [0, 1], [1], [1]],
    "a matrix": FOUR[:, None],
    "a matrix of lists": [[0], [0], [1], [1]],
    "complex": FOUR * 1j,
    "dates": FOUR.astype("datetime64[s]"),
}


@pytest.mark.parametrize("labels", WRONG_LABELS.values(), ids=WRONG_LABELS.keys())
def test_wrong_labels_are_named(labels, params):
    x = unit_rows(12)[:4]
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match=r"^labels must "):
            loss(x, labels)
    with pytest.raises(ValueError, match=r"^labels must "):
        pddm_jax.mine_quadruplets(SQUARE, labels)
    with pytest.raises(ValueError, match=r"^labels must "):
        pddm_jax.mine_quadruplets_fused(params["unit"], x, labels)
    with pytest.raises(ValueError, match=r"^classes must "):
        pddm_jax.softmax_loss(params["classifier"]["kernel"], x, labels)


@pytest.mark.parametrize("size", [True, False, np.True_, 2.0, "2", -1, 2**31, [2], np.array([2]), np.nan])
def test_a_size_that_is_no_count_is_named(size, params):
    with pytest.raises(ValueError, match=r"^size must be "):
        pddm_jax.mine_quadruplets(SQUARE, FOUR, "positive", size)
    with pytest.raises(ValueError, match=r"^size must be "):
        pddm_jax.mine_quadruplets_fused(params["unit"], unit_rows(13)[:4], FOUR, "positive", size)


@pytest.mark.parametrize("size", [0, 3, np.int64(3), np.uint8(3)])
def test_a_size_of_any_integer(size):
    assert pddm_jax.mine_quadruplets(SQUARE, FOUR, "positive", size).i.shape == (int(size),)


@pytest.mark.parametrize(
    "wrong", [["batch"], ("batch",), {"batch"}, {"batch": 1}, 1, True, None, np.array(["batch"])]
)
def test_a_choice_that_is_no_text_is_named(wrong, params):
    with pytest.raises(ValueError, match=r"^per must be one of .*'anchor'"):
        pddm_jax.mine_quadruplets(SQUARE, FOUR, per=wrong)
    with pytest.raises(ValueError, match=r"^mining must be one of .*'semihard'"):
        pddm_jax.triplet_loss(unit_rows(14)[:4], FOUR, mining=wrong)
    with pytest.raises(ValueError, match=r"^objective\.name must be one of .*'pddm'"):
        make_objective(wrong)
    with pytest.raises(ValueError, match=r"^objective\.mining_scope must be one of "):
        make_objective("pddm", mining_scope=wrong)
    with pytest.raises(ValueError, match=r"^dtype must be one of "):
        pddm_jax.score_matrix(params["unit"], unit_rows(14), dtype=wrong)


@pytest.mark.parametrize("wrong", [True, "1", None, [0.5], np.array([0.5]), 1j, {}])
def test_a_margin_that_is_no_number_is_named(wrong, params):
    x = unit_rows(15)[:4]
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match=r"^margin must be a number, got "):
            loss(x, FOUR, margin=wrong)
    mined = pddm_jax.Quadruplets(*np.zeros((4, 1), np.int32), np.ones(1, bool))
    for name in ("alpha", "beta", "weight"):
        with pytest.raises(ValueError, match=rf"^{name} must be a number, got "):
            pddm_jax.double_header_hinge(params["unit"], x, mined, **{name: wrong})
    with pytest.raises(ValueError, match=r"^temperature must be a number, got "):
        pddm_jax.softmax_loss(params["classifier"]["kernel"], x, FOUR, wrong)
    with pytest.raises(ValueError, match=r"^objective\.margin must be a number, got "):
        make_objective("triplet", margin=wrong)
    with pytest.raises(ValueError, match=r"^objective\.softmax must be a number, got "):
        make_objective("triplet", softmax=wrong)


@pytest.mark.parametrize("temperature", [0, -1.0])
def test_a_temperature_that_is_not_above_0_is_named(temperature, params):
    with pytest.raises(ValueError, match=r"^temperature must be above 0"):
        pddm_jax.softmax_loss(params["classifier"]["kernel"], unit_rows(16), LABELS, temperature)


@pytest.mark.parametrize("wrong", [True, 2.0, "2", None, 0, -1, 2**31])
def test_a_width_that_is_no_count_is_named(wrong):
    for name in ("hidden", "joint"):
        with pytest.raises(ValueError, match=rf"^{name} must be "):
            pddm_jax.PDDM(**{name: wrong}).init(jax.random.key(0), unit_rows(17), unit_rows(17))


@pytest.mark.parametrize("wrong", [True, 2.0, "2", -1, 2**31])
def test_a_number_of_pairs_that_is_no_count_is_named(wrong):
    with pytest.raises(ValueError, match=r"^pairs must be "):
        make_objective("pddm", pairs=wrong)


@pytest.mark.parametrize(
    "wrong", [None, "x", [[0.0] * WIDTH] * 4, np.full((4, WIDTH), True), np.full((4, WIDTH), 1j)]
)
def test_embeddings_that_are_no_array_of_numbers_are_named(wrong, params):
    for loss in LOSSES.values():
        with pytest.raises(ValueError, match=r"^embeddings must be an array of real numbers"):
            loss(wrong, FOUR)
    with pytest.raises(ValueError, match=r"^x must be an array of real numbers"):
        pddm_jax.score_matrix(params["unit"], wrong)
    with pytest.raises(ValueError, match=r"^x must be an array of real numbers"):
        pddm_jax.pair_scores(params["unit"], wrong, wrong)
    with pytest.raises(ValueError, match=r"^scores must be an array of real numbers"):
        pddm_jax.mine_quadruplets(wrong, FOUR)


def test_quadruplets_of_wrong_types_are_named(params):
    good = pddm_jax.Quadruplets(*np.zeros((4, 2), np.int32), np.ones(2, bool))
    for wrong in (
        good._replace(i=np.zeros(2)),
        good._replace(l=np.zeros(2, bool)),
        good._replace(valid=np.ones(2, int)),
        good[:4],
        (*good, good.i),
        (),
        None,
    ):
        with pytest.raises(ValueError, match=r"^quadruplets must be "):
            pddm_jax.double_header_hinge(params["unit"], unit_rows(18), wrong)


@pytest.mark.parametrize(
    "wrong", [{"kernel": np.ones((WIDTH, 4)), "bias": np.ones(4)}, [1], np.ones((WIDTH, 4)), "x", None, 3]
)
def test_parameters_whose_layers_are_of_other_types_are_named(wrong, params):
    unit = params["unit"]
    for given in (wrong, {**unit, "mean": np.ones((WIDTH, 4))}, {**unit, "joint": wrong}):
        with pytest.raises(ValueError, match=r"^params must be those of a PDDM unit"):
            pddm_jax.score_matrix(given, np.ones((2, WIDTH)))


def test_a_masked_array_is_named():
    masked = np.ma.masked_greater(np.arange(8.0).reshape(4, 2), 3)
    for name, call in (
        ("embeddings", lambda: pddm_jax.recall_at_k(masked, FOUR)),
        ("queries", lambda: pddm_jax.nearest(masked, np.ones((3, 2)), 1)),
        ("gallery", lambda: pddm_jax.nearest(np.ones((3, 2)), masked, 1)),
        ("embeddings", lambda: pddm_jax.triplet_loss(masked, FOUR)),
    ):
        with pytest.raises(ValueError, match=rf"^{name} must be an array without a mask"):
            call()
