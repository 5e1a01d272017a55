"""The PDDM unit, pair_scores and score_matrix, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import pddm_jax
from pddm_jax.pddm.scoring import score_rows
from tests.helpers import oracles

WIDTH, HIDDEN, JOINT = 5, 6, 7
LEAVES = {
    "difference": {"kernel": (WIDTH, HIDDEN), "bias": (HIDDEN,)},
    "mean": {"kernel": (WIDTH, HIDDEN), "bias": (HIDDEN,)},
    "joint": {"kernel": (2 * HIDDEN, JOINT), "bias": (JOINT,)},
    "score": {"kernel": (JOINT, 1), "bias": (1,)},
}
TOLERANCE = 1e-5  # of the size of the terms of a score, which may cancel
UNIT = pddm_jax.PDDM(hidden=HIDDEN, joint=JOINT)


def normal_params(seed):
    rng = np.random.default_rng(seed)
    return {
        layer: {
            name: jnp.asarray(rng.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
            for name, shape in leaves.items()
        }
        for layer, leaves in LEAVES.items()
    }


def unit_rows(seed, *shape):
    rows = np.random.default_rng(seed).normal(size=(*shape, WIDTH))
    return jnp.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), jnp.float32)


def changed(params, **layers):
    """A copy with some leaves replaced: changed(params, mean={"bias": b})."""
    return {layer: leaves | layers.get(layer, {}) for layer, leaves in params.items()}


def scaled_biases(params, factor):
    return changed(params, **{layer: {"bias": params[layer]["bias"] * factor} for layer in params})


def expected_scores(params, pairs):
    params = oracles.as_python(params)
    found = [oracles.pddm_score_and_scale(params, x, y) for x, y in pairs]
    return np.array([score for score, _ in found]), np.array([scale for _, scale in found])


def assert_scores(actual, params, pairs, tolerance=TOLERANCE):
    """`actual` [p] are the scores of the p pairs."""
    score, scale = expected_scores(params, pairs)
    error = np.abs(np.asarray(actual, np.float64) - score)
    assert error.shape == score.shape
    assert np.all(error <= tolerance * scale), (error / scale).max()


def assert_matrix(actual, params, x, y, tolerance=TOLERANCE):
    """`actual` are the scores of all pairs."""
    assert actual.shape == (len(x), len(y))
    x, y = np.asarray(x).tolist(), np.asarray(y).tolist()
    assert_scores(np.asarray(actual).reshape(-1), params, [(a, b) for a in x for b in y], tolerance)


def nested(params, x, y):
    """All pairs by the unit itself."""
    return jax.vmap(lambda a: jax.vmap(lambda b: UNIT.apply({"params": params}, a, b))(y))(x)


def assert_same_gradients(actual, expected, tolerance=2e-5):
    """Each leaf, relative to its largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def assert_finite(tree):
    for leaf in jax.tree.leaves(tree):
        assert np.all(np.isfinite(np.asarray(leaf)))


@pytest.fixture(scope="module")
def params():
    return normal_params(0)


# --------------------------------------------------------------------------------------------- the unit


def test_unit_has_the_documented_parameters():
    variables = jax.eval_shape(UNIT.init, jax.random.key(0), jnp.zeros(WIDTH), jnp.zeros(WIDTH))
    assert set(variables) == {"params"}
    shapes = {
        layer: {name: leaf.shape for name, leaf in leaves.items()}
        for layer, leaves in variables["params"].items()
    }
    assert shapes == LEAVES
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(("width", "hidden"), [(8, 16), (64, 32), (128, 128)])
@pytest.mark.parametrize("seed", range(3))
def test_a_fresh_score_falls_with_distance(width, hidden, seed):
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.normal(size=(12, width)), 3, axis=0) + rng.normal(size=(36, width))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    params = jax.jit(pddm_jax.PDDM(hidden, hidden).init)(jax.random.key(seed), x, x)["params"]
    scores = np.asarray(pddm_jax.score_matrix(params, x))
    distances = np.linalg.norm(x[:, None] - x, axis=2)
    pairs = np.triu_indices(36, 1)
    assert scipy.stats.spearmanr(scores[pairs], distances[pairs]).statistic < -0.7
    assert scores[pairs].std() > 0.02


def test_unit_widths_default_to_128():
    assert (pddm_jax.PDDM().hidden, pddm_jax.PDDM().joint) == (128, 128)


def test_unit_against_the_loops(params):
    x, y = unit_rows(1, 2, 3), unit_rows(2, 2, 3)
    scores = UNIT.apply({"params": params}, x, y)
    assert scores.shape == (2, 3)
    assert_scores(
        scores.reshape(-1), params, list(zip(x.reshape(-1, WIDTH), y.reshape(-1, WIDTH), strict=True))
    )


def test_unit_as_initialised_scores_as_the_functions_do():
    x, y = unit_rows(3, 4), unit_rows(4, 4)
    params = jax.jit(UNIT.init)(jax.random.key(2), x, y)["params"]
    assert_scores(UNIT.apply({"params": params}, x, y), params, list(zip(x, y, strict=True)))
    assert_scores(pddm_jax.pair_scores(params, x, y), params, list(zip(x, y, strict=True)))


@pytest.mark.parametrize(
    ("unit", "y", "words"),
    [
        (UNIT, unit_rows(4, 4)[:, :-1], r"y must have the shape of x, \(4, \d+\), got \(4, \d+\)"),
        (UNIT, unit_rows(4, 3), r"y must have the shape of x, \(4, \d+\), got \(3, \d+\)"),
        (pddm_jax.PDDM(hidden=0), unit_rows(4, 4), "hidden must be 1 or more, got 0"),
        (pddm_jax.PDDM(joint=-1), unit_rows(4, 4), "joint must be 1 or more, got -1"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(unit, y, words):
    with pytest.raises(ValueError, match=words):
        unit.init(jax.random.key(0), unit_rows(3, 4), y)


def test_unit_in_bfloat16_is_near(params):
    x, y = unit_rows(5, 8), unit_rows(6, 8)
    unit = pddm_jax.PDDM(hidden=HIDDEN, joint=JOINT, dtype=jnp.bfloat16)
    scores = unit.apply({"params": params}, x, y)
    assert_scores(scores, params, list(zip(x, y, strict=True)), tolerance=0.03)
    assert not np.array_equal(scores, UNIT.apply({"params": params}, x, y))


# ------------------------------------------------------------------------------------------ pair_scores


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (2, 1, 4)])
def test_pair_scores_of_any_leading_axes(params, shape):
    x, y = unit_rows(7, *shape), unit_rows(8, *shape)
    scores = pddm_jax.pair_scores(params, x, y)
    assert scores.shape == shape
    assert scores.dtype == jnp.float32
    pairs = list(zip(x.reshape(-1, WIDTH), y.reshape(-1, WIDTH), strict=True))
    assert_scores(np.asarray(scores).reshape(-1), params, pairs)


def test_pair_scores_are_symmetric_to_the_bit(params):
    x, y = unit_rows(9, 64), unit_rows(10, 64)
    there, back = pddm_jax.pair_scores(params, x, y), pddm_jax.pair_scores(params, y, x)
    assert np.array_equal(there, back)
    assert len(np.unique(there)) == 64


def test_pair_scores_under_jit_and_vmap(params):
    x, y = unit_rows(11, 2, 3), unit_rows(12, 2, 3)
    scores = jax.jit(jax.vmap(pddm_jax.pair_scores, in_axes=(None, 0, 0)))(params, x, y)
    assert_scores(
        np.asarray(scores).reshape(-1),
        params,
        list(zip(x.reshape(-1, WIDTH), y.reshape(-1, WIDTH), strict=True)),
    )


def test_gradient_of_pair_scores_against_finite_differences_of_the_loops(params):
    x, y = unit_rows(13, 3), unit_rows(14, 3)
    rng = np.random.default_rng(15)
    gradient = jax.grad(lambda *at: pddm_jax.pair_scores(*at).sum(), argnums=(0, 1, 2))(params, x, y)
    leaves, treedef = jax.tree.flatten((params, x, y))
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]

    def loops(step, direction):
        moved = [leaf + step * part for leaf, part in zip(leaves, direction, strict=True)]
        moved_params, moved_x, moved_y = jax.tree.unflatten(treedef, moved)
        return sum(oracles.pddm_score(moved_params, a, b) for a, b in zip(moved_x, moved_y, strict=True))

    size = np.sqrt(sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(gradient)))
    for _ in range(3):
        direction = [rng.normal(size=leaf.shape) for leaf in leaves]
        slope = (loops(1e-6, direction) - loops(-1e-6, direction)) / 2e-6
        along = sum(
            float(np.sum(np.asarray(leaf, np.float64) * part))
            for leaf, part in zip(jax.tree.leaves(gradient), direction, strict=True)
        )
        assert abs(along - slope) <= 1e-5 * size
        assert abs(slope) > 1e-3 * size


# ----------------------------------------------------------------------------------------- score_matrix


@pytest.mark.usefixtures("few_tiles_a_step")
@pytest.mark.parametrize("n", [1, 7, 8, 9, 33, 100])
def test_score_matrix_of_x_with_itself(params, n):
    x = unit_rows(20 + n, n)
    scores = pddm_jax.score_matrix(params, x)
    assert scores.dtype == jnp.float32
    assert np.array_equal(scores, np.asarray(scores).T)
    assert_matrix(scores, params, x, x)


@pytest.mark.usefixtures("few_tiles_a_step")
@pytest.mark.parametrize(("n", "m"), [(1, 9), (33, 7), (9, 100)])
def test_score_matrix_of_x_against_y(params, n, m):
    x, y = unit_rows(30 + n, n), unit_rows(31 + m, m)
    scores = pddm_jax.score_matrix(params, x, y)
    assert scores.dtype == jnp.float32
    assert_matrix(scores, params, x, y)


@pytest.mark.parametrize(("n", "m"), [(1, 17), (3, 5), (0, 4)])
def test_score_rows_are_the_scores_of_the_matrix(params, n, m):
    x, y = unit_rows(21, n), unit_rows(22, m)
    scores = score_rows(params, x, y)
    assert scores.shape == (n, m)
    assert_matrix(scores, params, x, y)
    with pytest.raises(ValueError, match=r"^y must be a matrix"):
        score_rows(params, x, y[:, :-1])


def test_score_matrix_of_x_against_y_equal_to_x(params):
    x = unit_rows(40, 9)
    assert_matrix(pddm_jax.score_matrix(params, x, x), params, x, x)


@pytest.mark.parametrize(("width", "hidden", "joint"), [(2, 9, 1), (1, 2, 130)])
def test_score_matrix_of_any_widths(width, hidden, joint):
    x = jax.random.normal(jax.random.key(3), (9, width))
    params = jax.jit(pddm_jax.PDDM(hidden=hidden, joint=joint).init)(jax.random.key(4), x, x)["params"]
    assert_matrix(pddm_jax.score_matrix(params, x), params, x, x)


def test_score_matrix_where_a_branch_is_zero(params):
    x = unit_rows(41, 9)
    below = {"bias": jnp.full(HIDDEN, -100.0)}
    for dead in ({"difference": below}, {"mean": below}, {"difference": below, "mean": below}):
        blind = changed(params, **dead)
        assert_matrix(pddm_jax.score_matrix(blind, x), blind, x, x)
        assert_matrix(nested(blind, x, x), blind, x, x)


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_score_matrix_of_zero_coincident_and_opposite_embeddings(params, factor):
    """Without biases the branches of x - x and x + (-x) are zero: factor 0."""
    params, x = scaled_biases(params, factor), unit_rows(42, 9)
    x = x.at[1].set(x[0]).at[2].set(-x[0]).at[3].set(0.0).at[4].set(0.0)
    scores = pddm_jax.score_matrix(params, x)
    assert_matrix(scores, params, x, x)
    assert np.array_equal(scores, np.asarray(scores).T)


def test_score_matrix_under_jit_and_vmap(params):
    x, y = unit_rows(43, 2, 9), unit_rows(44, 2, 7)
    both = jax.jit(
        jax.vmap(lambda a, b: (pddm_jax.score_matrix(params, a), pddm_jax.score_matrix(params, a, b)))
    )
    itself, other = both(x, y)
    for batch in range(2):
        assert_matrix(itself[batch], params, x[batch], x[batch])
        assert np.array_equal(itself[batch], np.asarray(itself[batch]).T)
        assert_matrix(other[batch], params, x[batch], y[batch])


@pytest.mark.parametrize("n", [9, 33])
def test_gradient_of_score_matrix_of_x_with_itself(params, n):
    x, weights = unit_rows(50, n), jax.random.normal(jax.random.key(5), (n, n))
    fast = jax.grad(lambda p, a: jnp.sum(weights * pddm_jax.score_matrix(p, a)), argnums=(0, 1))
    plain = jax.grad(lambda p, a: jnp.sum(weights * nested(p, a, a)), argnums=(0, 1))
    assert_same_gradients(fast(params, x), jax.jit(plain)(params, x))


def test_gradient_of_score_matrix_of_x_against_y(params):
    x, y, weights = unit_rows(51, 33), unit_rows(52, 9), jax.random.normal(jax.random.key(6), (33, 9))
    fast = jax.grad(lambda *at: jnp.sum(weights * pddm_jax.score_matrix(*at)), argnums=(0, 1, 2))
    plain = jax.grad(lambda *at: jnp.sum(weights * nested(*at)), argnums=(0, 1, 2))
    assert_same_gradients(fast(params, x, y), jax.jit(plain)(params, x, y))


@jax.jit
@jax.grad
def gradient_of_all_functions(at):
    params, x, y = at
    return sum(
        scores.sum()
        for scores in (
            pddm_jax.score_matrix(params, x),
            pddm_jax.score_matrix(params, x, y),
            pddm_jax.pair_scores(params, x, y),
        )
    )


def test_gradients_are_finite_in_degenerate_cases(params):
    x, zero, other = unit_rows(53, 9), jnp.zeros((9, WIDTH)), unit_rows(54, 9)
    coincident = x.at[1].set(x[0]).at[2].set(-x[0]).at[3].set(0.0)
    below = {"bias": jnp.full(HIDDEN, -100.0)}
    units = (params, scaled_biases(params, 0.0), changed(params, difference=below, mean=below))
    for unit in units:
        for embeddings in (zero, coincident, jnp.tile(x[:1], (9, 1))):
            for y in (embeddings, other):
                assert_finite(gradient_of_all_functions((unit, embeddings, y)))


@pytest.mark.parametrize("size", [1e-8, 1e-15, 1e-21])
def test_gradients_are_finite_where_a_branch_is_tiny(params, size):
    """Its true gradient is of the size of 1 / size at most."""
    params, x, y = scaled_biases(params, 0.0), unit_rows(56, 9), unit_rows(57, 9)
    params = changed(params, difference={"kernel": params["difference"]["kernel"] * size})
    assert_finite(gradient_of_all_functions((params, x, y)))


def test_gradient_of_a_zero_branch_is_zero(params):
    below = {"bias": jnp.full(HIDDEN, -100.0)}
    x = unit_rows(55, 9)
    gradient = jax.grad(lambda p: pddm_jax.score_matrix(p, x).sum())(changed(params, difference=below))
    assert not np.any(gradient["difference"]["kernel"])
    assert not np.any(gradient["difference"]["bias"])
    assert np.any(gradient["mean"]["kernel"])


# ------------------------------------------------------------------------------ bfloat16, nothing, errors


def test_bfloat16_is_near_float32(params):
    dtype, x, y = jnp.bfloat16, unit_rows(60, 9), unit_rows(61, 9)
    scores = pddm_jax.score_matrix(params, x, dtype=dtype)
    assert scores.dtype == jnp.float32
    assert np.array_equal(scores, np.asarray(scores).T)
    assert not np.array_equal(scores, pddm_jax.score_matrix(params, x))
    assert_matrix(scores, params, x, x, tolerance=0.03)
    assert_matrix(pddm_jax.score_matrix(params, x, y, dtype=dtype), params, x, y, tolerance=0.03)
    pairs = pddm_jax.pair_scores(params, x, y, dtype=dtype)
    assert pairs.dtype == jnp.float32
    assert_scores(pairs, params, list(zip(x, y, strict=True)), tolerance=0.03)


def test_float32_may_be_named(params):
    x = unit_rows(62, 9)
    assert np.array_equal(
        pddm_jax.score_matrix(params, x, dtype="float32"), pddm_jax.score_matrix(params, x)
    )


def test_scores_of_nothing(params):
    some, none = unit_rows(63, 7), jnp.zeros((0, WIDTH))
    assert pddm_jax.score_matrix(params, none).shape == (0, 0)
    assert pddm_jax.score_matrix(params, none, some).shape == (0, 7)
    assert pddm_jax.score_matrix(params, some, none).shape == (7, 0)
    assert pddm_jax.pair_scores(params, none, none).shape == (0,)
    assert pddm_jax.pair_scores(params, jnp.zeros((3, 0, WIDTH)), jnp.zeros((3, 0, WIDTH))).shape == (3, 0)


def test_gradient_of_the_scores_of_nothing_is_zero(params):
    none = jnp.zeros((0, WIDTH))
    for gradient in (
        jax.grad(lambda p: pddm_jax.score_matrix(p, none).sum())(params),
        jax.grad(lambda p: pddm_jax.pair_scores(p, none, none).sum())(params),
    ):
        assert jax.tree.map(jnp.shape, gradient) == LEAVES
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("shape", [(WIDTH,), (2, 9, WIDTH), (), (9, WIDTH + 1), (9, 1)])
def test_score_matrix_refuses_wrong_shapes(params, shape):
    x, wrong = unit_rows(64, 9), jnp.zeros(shape)
    with pytest.raises(ValueError, match=r"\bx\b"):
        pddm_jax.score_matrix(params, wrong)
    with pytest.raises(ValueError, match=r"\by\b"):
        pddm_jax.score_matrix(params, x, wrong)


@pytest.mark.parametrize("shape", [(), (9, WIDTH + 1), (9, 1), (WIDTH + 1,)])
def test_pair_scores_refuses_x_of_another_width(params, shape):
    with pytest.raises(ValueError, match=r"\bx\b"):
        pddm_jax.pair_scores(params, jnp.zeros(shape), jnp.zeros(shape))


@pytest.mark.parametrize("shape", [(WIDTH,), (8, WIDTH), (1, WIDTH), (9, WIDTH + 1), (9, 9, WIDTH), ()])
def test_pair_scores_refuses_y_of_another_shape(params, shape):
    with pytest.raises(ValueError, match=r"\by\b"):
        pddm_jax.pair_scores(params, unit_rows(65, 9), jnp.zeros(shape))


def without(tree, key):
    return {name: value for name, value in tree.items() if name != key}


WRONG_PARAMS = {
    "empty": lambda params: {},
    "a layer is missing": lambda params: without(params, "joint"),
    "a bias is missing": lambda params: params | {"mean": without(params["mean"], "bias")},
    "variables instead of params": lambda params: {"params": params},
    "widths of the branches differ": lambda params: changed(
        params, mean={"kernel": jnp.zeros((WIDTH, HIDDEN + 1)), "bias": jnp.zeros(HIDDEN + 1)}
    ),
    "inputs of the branches differ": lambda params: changed(
        params, mean={"kernel": jnp.zeros((WIDTH + 1, HIDDEN))}
    ),
    "joint does not take both branches": lambda params: changed(
        params, joint={"kernel": jnp.zeros((HIDDEN, JOINT))}
    ),
    "a bias of another width": lambda params: changed(params, joint={"bias": jnp.zeros(JOINT + 1)}),
    "a bias of width 1": lambda params: changed(params, joint={"bias": jnp.zeros(1)}),
    "score is no single number": lambda params: changed(
        params, score={"kernel": jnp.zeros((JOINT, 2)), "bias": jnp.zeros(2)}
    ),
    "a kernel is no matrix": lambda params: changed(params, score={"kernel": jnp.zeros(JOINT)}),
}


@pytest.mark.parametrize("wrong", WRONG_PARAMS.values(), ids=WRONG_PARAMS.keys())
def test_score_matrix_refuses_wrong_params(params, wrong):
    x = unit_rows(66, 9)
    with pytest.raises(ValueError, match=r"\bparams\b"):
        pddm_jax.score_matrix(wrong(params), x)
    with pytest.raises(ValueError, match=r"\bparams\b"):
        pddm_jax.score_matrix(wrong(params), x, x)


@pytest.mark.parametrize("wrong", WRONG_PARAMS.values(), ids=WRONG_PARAMS.keys())
def test_pair_scores_refuses_wrong_params(params, wrong):
    x = unit_rows(66, 9)
    with pytest.raises(ValueError, match=r"\bparams\b"):
        pddm_jax.pair_scores(wrong(params), x, x)


@pytest.mark.parametrize("dtype", ["float16", jnp.float16, jnp.int32, "float64", "nonsense"])
def test_scores_refuse_other_dtypes(params, dtype):
    x = unit_rows(67, 9)
    with pytest.raises(ValueError, match=r"\bdtype\b"):
        pddm_jax.score_matrix(params, x, dtype=dtype)
    with pytest.raises(ValueError, match=r"\bdtype\b"):
        pddm_jax.pair_scores(params, x, x, dtype=dtype)
