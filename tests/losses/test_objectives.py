"""Objectives by name: finite values, gradients, logs, and refused names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax import PDDM
from pddm_jax.losses.objectives import OBJECTIVES, has_classifier, make_objective
from tests.helpers.training import LABELS, WIDTH, K, P


@pytest.fixture(scope="module")
def unit():
    return PDDM(hidden=WIDTH, joint=WIDTH)


@pytest.fixture(scope="module")
def params(unit):
    of_unit = jax.jit(unit.init)(jax.random.key(2), *jnp.zeros((2, 1, WIDTH)))["params"]
    return {"unit": of_unit, "classifier": {"kernel": jnp.eye(WIDTH)}}


@pytest.fixture(scope="module")
def embeddings():
    x = np.random.default_rng(0).normal(size=(P * K, WIDTH)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_finite_and_trains_what_it_says(name, params, embeddings):
    loss, fields = make_objective(name, pairs=P * K * (K - 1) // 2)
    assert fields == OBJECTIVES[name].defaults
    differentiate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, logs), (of_params, of_embeddings) = differentiate(params, embeddings, LABELS)
    for x in jax.tree.leaves((value, logs, of_params, of_embeddings)):
        assert np.isfinite(x).all()
    assert value > 0
    assert value.shape == ()
    assert np.abs(of_embeddings).max() > 0
    trained = {
        part: max(np.abs(x).max() for x in jax.tree.leaves(of)) > 0 for part, of in of_params.items()
    }
    assert trained == {"unit": OBJECTIVES[name].learns_score, "classifier": has_classifier(fields)}


@pytest.mark.parametrize(
    ("name", "per"),
    [("pddm", "positive"), ("pddm", "batch"), ("quadruplet", "positive"), ("quadruplet", "anchor")],
)
def test_the_number_of_pairs_changes_no_value(name, per, params, embeddings):
    shuffled = np.random.default_rng(1).permutation(LABELS)
    values = [
        make_objective(name, pairs, mining_scope=per)[0](params, embeddings, shuffled)
        for pairs in (None, P * K * (K - 1) // 2)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *values)


def test_scopes_and_heads_make_a_difference(params, embeddings):
    def value(name, **fields):
        return float(make_objective(name, **fields)[0](params, embeddings, LABELS)[0])

    values = [value("pddm", mining_scope=per) for per in ("batch", "anchor", "positive")]
    values += [
        value("pddm_triplet"),
        value("pddm", alpha=0.7),
        value("pddm", beta=0.7),
        value("pddm", weight=0.7),
    ]
    assert len({round(x, 4) for x in values}) == len(values)


@pytest.mark.parametrize("name", ["pddm", "pddm_triplet"])
def test_the_logs_of_pddm_make_up_its_loss(name, params, embeddings):
    value, logs = make_objective(name, weight=0.25)[0](params, embeddings, LABELS)
    np.testing.assert_allclose(value, logs["loss_metric"] + 0.25 * logs["loss_embedding"], rtol=1e-6)


def test_an_unknown_objective_lists_what_exists():
    with pytest.raises(ValueError, match=r"objective\.name.*'contrastive'.*'pddm'.*got 'nope'"):
        make_objective("nope")


@pytest.mark.parametrize(
    ("name", "field", "known"), [("pddm", "margin", "alpha"), ("triplet", "mining", "margin")]
)
def test_an_unknown_field_lists_what_exists(name, field, known):
    with pytest.raises(ValueError, match=rf"'{name}'.*'{known}'.*got '{field}'"):
        make_objective(name, **{field: 1.0})
