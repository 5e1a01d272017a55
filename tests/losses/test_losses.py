"""Each loss against its formula in loops; its gradient against finite differences of those loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pddm_jax
from tests.helpers import oracles

B, WIDTH, HIDDEN, JOINT = 9, 4, 5, 6
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 5])  # the last is alone in its class
LOSSES = {
    "contrastive": (pddm_jax.contrastive_loss, oracles.contrastive),
    "triplet all": (
        partial(pddm_jax.triplet_loss, mining="all"),
        partial(oracles.triplet, mining="all"),
    ),
    "triplet semihard": (
        partial(pddm_jax.triplet_loss, mining="semihard"),
        partial(oracles.triplet, mining="semihard"),
    ),
    "triplet hard": (
        partial(pddm_jax.triplet_loss, mining="hard"),
        partial(oracles.triplet, mining="hard"),
    ),
    "lifted structure": (pddm_jax.lifted_structure_loss, oracles.lifted_structure),
    "multi-similarity": (pddm_jax.multi_similarity_loss, oracles.multi_similarity),
}
each_loss = pytest.mark.parametrize(("loss", "loops"), LOSSES.values(), ids=LOSSES.keys())
each_name = pytest.mark.parametrize("name", LOSSES)
# Compiled once each for all tests: the labels are an argument, the shapes are few.
GRADIENTS = {name: jax.jit(jax.value_and_grad(loss)) for name, (loss, _) in LOSSES.items()}


def unit_rows(seed, n=B, width=WIDTH):
    rows = np.random.default_rng(seed).normal(size=(n, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def normal_params(seed):
    shapes = {
        "difference": {"kernel": (WIDTH, HIDDEN), "bias": (HIDDEN,)},
        "mean": {"kernel": (WIDTH, HIDDEN), "bias": (HIDDEN,)},
        "joint": {"kernel": (2 * HIDDEN, JOINT), "bias": (JOINT,)},
        "score": {"kernel": (JOINT, 1), "bias": (1,)},
    }
    rng = np.random.default_rng(seed)
    return {
        layer: {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in leaves.items()}
        for layer, leaves in shapes.items()
    }


def quadruplets_of(rows, valid=None):
    """Of a list of (i, j, k, l)."""
    columns = np.array(rows, np.int32).reshape(-1, 4).T
    valid = np.ones(columns.shape[1], bool) if valid is None else np.array(valid, bool)
    return pddm_jax.Quadruplets(*map(jnp.asarray, columns), jnp.asarray(valid))


def is_finite(tree):
    return all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves(tree))


def assert_slopes(gradient, at, loops, seed, tolerance=2e-5):
    """In three random directions, to `tolerance` of the length of the gradient.

    The differences are those of the loops in float64: with a step of 1e-6 they are good to 1e-8 or so, and
    what is left is the rounding of the gradient.
    """
    rng = np.random.default_rng(seed)
    gradient = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradient)]
    leaves, treedef = jax.tree.flatten(at)
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
    length = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in gradient))
    assert length > 0
    for _ in range(3):
        direction = [rng.normal(size=leaf.shape) for leaf in leaves]
        ahead, behind = (
            loops(jax.tree.unflatten(treedef, [x + h * v for x, v in zip(leaves, direction, strict=True)]))
            for h in (1e-6, -1e-6)
        )
        along = sum(np.sum(g * v) for g, v in zip(gradient, direction, strict=True))
        assert abs(along - (ahead - behind) / 2e-6) <= tolerance * length
        assert abs(along) > 1e-3 * length  # the direction tells something


# ------------------------------------------------------------------- the losses of embeddings and labels


@each_name
def test_value_against_the_loops(name):
    for seed in range(4):
        x = unit_rows(seed)
        value, gradient = GRADIENTS[name](x, LABELS)
        assert value.shape == ()
        assert value.dtype == jnp.float32
        assert gradient.shape == x.shape
        expected = LOSSES[name][1](x, LABELS)
        assert expected > 0.01
        assert float(value) == pytest.approx(expected, rel=1e-5)


@each_name
def test_value_of_embeddings_of_any_length(name):
    x = unit_rows(10) * np.linspace(0.2, 1.5, B, dtype=np.float32)[:, None]
    value, _ = GRADIENTS[name](x, LABELS)
    # Products of unlike lengths, and exponentials of up to 50 times such a product.
    relative = 1e-4 if name == "multi-similarity" else 1e-5
    assert float(value) == pytest.approx(LOSSES[name][1](x, LABELS), rel=relative)


@each_name
def test_gradient_against_finite_differences_of_the_loops(name):
    x = unit_rows(20)
    _, gradient = GRADIENTS[name](x, LABELS)
    assert_slopes(gradient, x, lambda at: LOSSES[name][1](at, LABELS), seed=21)


@each_loss
def test_labels_of_any_integers(loss, loops):
    names = np.array([1, 2**32 + 1, -(2**40), 2**63 - 1])
    labels = names[[0, 1, 2, 0, 1, 2, 0, 1, 3]]
    x = unit_rows(30)
    assert float(loss(x, labels)) == pytest.approx(loops(x, labels.tolist()), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "loops", "options"),
    [
        (pddm_jax.contrastive_loss, oracles.contrastive, {"margin": 0.7}),
        (pddm_jax.triplet_loss, oracles.triplet, {"margin": 0.5, "mining": "all"}),
        (pddm_jax.triplet_loss, oracles.triplet, {"margin": 0.9}),
        (pddm_jax.lifted_structure_loss, oracles.lifted_structure, {"margin": 0.3}),
        (
            pddm_jax.multi_similarity_loss,
            oracles.multi_similarity,
            {"alpha": 3.0, "beta": 20.0, "base": 0.3, "margin": 0.2},
        ),
    ],
)
def test_options_against_the_loops(loss, loops, options):
    x = unit_rows(40)
    expected = loops(x, LABELS, **options)
    assert float(loss(x, LABELS, **options)) == pytest.approx(expected, rel=1e-5)
    assert loops(x, LABELS) != pytest.approx(expected, rel=1e-3)


def test_lifted_structure_loss_by_hand():
    """One positive pair at distance 0.6, its two negatives at 0.8, 1 and 1, 0.8."""
    x = np.array([[0, 0], [0.6, 0], [0, 0.8], [0.6, 0.8]], np.float32)
    inside = 2 * np.exp(1 - 0.8) + 2 * np.exp(1 - 1)
    expected = (np.log(inside) + 0.6) ** 2 / 2
    assert float(pddm_jax.lifted_structure_loss(x, np.array([0, 0, 1, 2]))) == pytest.approx(
        expected, rel=1e-5
    )


def test_lifted_structure_loss_with_far_negatives_is_zero():
    x = np.array([[0.0], [0.1], [50.0], [90.0]], np.float32)
    assert float(pddm_jax.lifted_structure_loss(x, np.array([0, 0, 1, 2]))) == 0


def test_triplet_all_leaves_out_what_keeps_the_margin():
    """D: 1 to the positive; 0.81 and 9 to the negatives of the anchor; 0.01 and 4 of the other."""
    x, labels = np.array([[0.0], [1.0], [0.9], [3.0]], np.float32), np.array([0, 0, 1, 2])
    expected = ((0.2 + 1 - 0.81) + (0.2 + 1 - 0.01)) / 2
    assert float(pddm_jax.triplet_loss(x, labels, mining="all")) == pytest.approx(expected, rel=1e-5)


def test_triplet_semihard_takes_the_farthest_where_none_is_farther():
    """The anchor at 0, its positive at 3: all negatives are nearer, at 1 and 2."""
    x, labels = np.array([[0.0], [3.0], [1.0], [-2.0]], np.float32), np.array([0, 0, 1, 2])
    from_0 = 0.2 + 9 - 4  # no negative is farther: the farthest is at -2
    from_3 = 0.0  # the negative at -2 is farther than the positive, by far
    expected = (from_0 + from_3) / 2
    assert float(pddm_jax.triplet_loss(x, labels)) == pytest.approx(expected, rel=1e-5)


def test_triplet_all_where_every_margin_is_kept():
    x, labels = np.array([[0.0], [0.1], [5.0], [5.1]], np.float32), np.array([0, 0, 1, 1])
    value, gradient = GRADIENTS["triplet all"](x, labels)
    assert float(value) == 0
    assert not np.any(gradient)


@each_name
def test_one_class_and_all_different(name):
    """No negatives, and no positives: the loss of the other kind of pairs, if it has one, or 0."""
    x = unit_rows(50)
    for labels in (np.zeros(B, int), np.arange(B)):
        value, gradient = GRADIENTS[name](x, labels)
        expected = LOSSES[name][1](x, labels)
        assert (expected > 0) == (name == "contrastive")
        assert float(value) == pytest.approx(expected, rel=1e-5)
        assert is_finite(gradient)
        assert np.any(gradient) == (name == "contrastive")


@each_loss
def test_batch_of_one(loss, loops):
    assert float(loss(unit_rows(51, 1), np.array([4]))) == 0


@each_name
def test_finite_in_degenerate_cases(name):
    x = unit_rows(52)
    coincident = x.copy()
    coincident[3] = coincident[0]  # a positive pair
    coincident[1] = coincident[2]  # a negative pair
    partly_zero = x.copy()
    partly_zero[[0, 3, 5]] = 0
    for embeddings in (coincident, partly_zero, np.zeros_like(x), np.tile(x[:1], (B, 1))):
        value, gradient = GRADIENTS[name](embeddings, LABELS)
        assert is_finite((value, gradient))


@each_name
def test_finite_where_embeddings_nearly_coincide(name):
    for size in (1e-7, 1e-12, 1e-20, 1e-30):
        x = unit_rows(53) * np.float32(size)
        assert is_finite(GRADIENTS[name](x, LABELS))


@pytest.mark.parametrize("name", ["contrastive", "triplet hard", "lifted structure"])
def test_value_of_coincident_embeddings(name):
    x = unit_rows(54)
    x[3], x[1] = x[0], x[2]
    value, _ = GRADIENTS[name](x, LABELS)
    assert float(value) == pytest.approx(LOSSES[name][1](x, LABELS), rel=1e-5)


@each_name
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_the_batch_does_not_matter(name, seed):
    rng = np.random.default_rng(seed)
    x, labels, order = unit_rows(rng), rng.integers(0, 4, B), rng.permutation(B)
    value, gradient = GRADIENTS[name](x, labels)
    again, gradient_again = GRADIENTS[name](x[order], labels[order])
    assert float(again) == pytest.approx(float(value), rel=1e-5, abs=1e-7)
    largest = max(1e-3, np.abs(np.asarray(gradient)).max())
    np.testing.assert_allclose(gradient_again, np.asarray(gradient)[order], rtol=0, atol=1e-4 * largest)


def test_under_vmap():
    x, labels = np.stack([unit_rows(60), unit_rows(61)]), np.stack([LABELS, LABELS[::-1]])
    values = jax.vmap(pddm_jax.triplet_loss)(x, labels)
    for value, rows, names in zip(values, x, labels, strict=True):
        assert float(value) == pytest.approx(oracles.triplet(rows, names), rel=1e-5)


WRONG_LABELS = {
    "too few": LABELS[:-1],
    "too many": np.arange(B + 1),
    "a matrix": LABELS[:, None],
    "a number": np.array(1),
    "floats": LABELS.astype(np.float32),
}


@each_loss
def test_refuses_wrong_labels(loss, loops):
    x = unit_rows(70)
    for labels in WRONG_LABELS.values():
        with pytest.raises(ValueError, match=r"\blabels\b"):
            loss(x, labels)


@each_loss
def test_refuses_embeddings_that_are_no_matrix(loss, loops):
    for shape in [(B,), (2, B, WIDTH), ()]:
        with pytest.raises(ValueError, match=r"\bembeddings\b"):
            loss(np.zeros(shape, np.float32), LABELS)


@pytest.mark.parametrize("mining", ["easy", "", None, "semi-hard"])
def test_refuses_unknown_mining(mining):
    with pytest.raises(ValueError, match=r"\bmining\b.*\bsemihard\b"):
        pddm_jax.triplet_loss(unit_rows(71), LABELS, mining=mining)


# ------------------------------------------------------------------------------------ double_header_hinge

ROWS = [(0, 3, 1, 2), (4, 1, 0, 8), (2, 5, 7, 6), (6, 0, 8, 8)]
HINGE = jax.jit(jax.value_and_grad(pddm_jax.double_header_hinge, argnums=(0, 1)))


@pytest.fixture(scope="module")
def params():
    return normal_params(0)


def hinge_loops(params, x, rows, **options):
    return oracles.double_header_hinge(oracles.as_python(params), np.asarray(x).tolist(), rows, **options)


@pytest.mark.parametrize("options", [{}, {"alpha": 2.0, "beta": 0.1, "weight": 3.0}, {"weight": 0.0}])
def test_hinge_against_the_loops(params, options):
    for seed in range(3):
        x = unit_rows(80 + seed)
        value, _ = HINGE(params, x, quadruplets_of(ROWS), **options)
        assert value.shape == ()
        assert value.dtype == jnp.float32
        expected = hinge_loops(params, x, ROWS, **options)
        assert expected > 0.05
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_hinge_is_compiled_as_it_is_called(params):
    x = unit_rows(83)
    value = pddm_jax.double_header_hinge(params, x, quadruplets_of(ROWS), alpha=0.25)
    assert float(value) == pytest.approx(hinge_loops(params, x, ROWS, alpha=0.25), rel=1e-5)


def test_hinge_of_each_part_alone(params):
    """With one margin far below zero the other part is left."""
    x = unit_rows(84)
    for options in ({"alpha": -1e3}, {"beta": -1e3}):
        value, _ = HINGE(params, x, quadruplets_of(ROWS), **options)
        assert float(value) == pytest.approx(hinge_loops(params, x, ROWS, **options), rel=1e-5)
        assert float(value) > 0
    value, gradient = HINGE(params, x, quadruplets_of(ROWS), alpha=-1e3, beta=-1e3)
    assert float(value) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("field", ["j", "l", "valid"])
def test_double_header_hinge_refuses_quadruplets_of_uneven_length(params, field):
    mined = quadruplets_of(ROWS)
    uneven = mined._replace(**{field: getattr(mined, field)[:-1]})
    with pytest.raises(ValueError, match=r"\bquadruplets\b"):
        pddm_jax.double_header_hinge(params, unit_rows(85), uneven)


def test_hinge_gradient_against_finite_differences_of_the_loops(params):
    x = unit_rows(85)
    _, gradient = HINGE(params, x, quadruplets_of(ROWS))
    assert_slopes(gradient, (params, x), lambda at: oracles.double_header_hinge(*at, ROWS), seed=86)


def test_hinge_trains_scores_and_embeddings_by_their_own_part(params):
    """Without E_m no gradient reaches the unit."""
    _, (unit, embeddings) = HINGE(params, unit_rows(87), quadruplets_of(ROWS), alpha=-1e3)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(unit))
    assert np.any(embeddings)


@pytest.mark.parametrize("junk", [(0, 0, 0, 0), (8, 1, 2, 3)])
def test_hinge_leaves_out_what_is_not_valid(params, junk):
    x = unit_rows(88)
    quadruplets = quadruplets_of([ROWS[0], junk, ROWS[2], junk], [True, False, True, False])
    value, (unit, embeddings) = HINGE(params, x, quadruplets)
    assert float(value) == pytest.approx(hinge_loops(params, x, [ROWS[0], ROWS[2]]), rel=1e-5)
    assert not np.any(embeddings[8])
    assert is_finite((unit, embeddings))


def test_hinge_without_a_valid_quadruplet_is_zero(params):
    bad = unit_rows(89)
    bad[0] = 0
    for x in (unit_rows(89), bad, np.zeros_like(bad)):
        value, gradient = HINGE(params, x, quadruplets_of(ROWS, [False] * 4))
        assert float(value) == 0
        assert all(np.array_equal(leaf, np.zeros_like(leaf)) for leaf in jax.tree.leaves(gradient))


def test_hinge_without_a_slot_is_zero(params):
    x = unit_rows(90)
    value, gradient = HINGE(params, x, quadruplets_of([]))
    assert float(value) == 0
    assert all(np.array_equal(leaf, np.zeros_like(leaf)) for leaf in jax.tree.leaves(gradient))


def test_hinge_is_finite_in_degenerate_cases(params):
    x = unit_rows(91)
    coincident = x.copy()
    coincident[3], coincident[1] = coincident[0], coincident[0]
    without_bias = {
        layer: {"kernel": leaves["kernel"], "bias": 0 * leaves["bias"]} for layer, leaves in params.items()
    }
    for unit in (params, without_bias):
        for embeddings in (coincident, np.zeros_like(x), np.tile(x[:1], (B, 1))):
            assert is_finite(HINGE(unit, embeddings, quadruplets_of(ROWS)))
    value, _ = HINGE(params, coincident, quadruplets_of(ROWS))
    assert float(value) == pytest.approx(hinge_loops(params, coincident, ROWS), rel=1e-5)


@pytest.mark.parametrize("per", ["batch", "anchor", "positive"])
def test_hinge_of_mined_quadruplets(params, per):
    """All the way, from the scores to the loss."""
    x = unit_rows(92)
    x_loops, params_loops = x.tolist(), oracles.as_python(params)
    scores = [[oracles.pddm_score(params_loops, a, b) for b in x_loops] for a in x_loops]
    quadruplets = pddm_jax.mine_quadruplets_fused(params, x, LABELS, per=per)
    value = pddm_jax.double_header_hinge(params, x, quadruplets)
    expected = oracles.double_header_hinge(params_loops, x_loops, oracles.mine(scores, LABELS, per))
    assert expected > 0
    assert float(value) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_the_batch_does_not_matter_to_the_hinge(seed):
    rng = np.random.default_rng(seed)
    unit, x, labels, order = normal_params(0), unit_rows(rng), rng.integers(0, 3, B), rng.permutation(B)
    values = [
        pddm_jax.double_header_hinge(
            unit, rows, pddm_jax.mine_quadruplets_fused(unit, rows, names, per="anchor")
        )
        for rows, names in ((x, labels), (x[order], labels[order]))
    ]
    assert float(values[1]) == pytest.approx(float(values[0]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("shape", [(WIDTH,), (B, WIDTH + 1), (2, B, WIDTH)])
def test_hinge_refuses_embeddings_that_do_not_fit(params, shape):
    with pytest.raises(ValueError, match=r"\bembeddings\b"):
        pddm_jax.double_header_hinge(params, np.zeros(shape, np.float32), quadruplets_of(ROWS))


def test_hinge_refuses_params_of_no_unit(params):
    with pytest.raises(ValueError, match=r"\bparams\b"):
        pddm_jax.double_header_hinge({"params": params}, unit_rows(93), quadruplets_of(ROWS))
