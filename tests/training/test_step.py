"""The train step, the initial state, and the forward pass that embeds."""

import logging

import jax
import numpy as np
import pytest

from pddm_jax import PDDM
from pddm_jax.losses import contrastive_loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.sharding import data_mesh
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import init_state
from pddm_jax.training.step import make_embed
from tests.helpers.training import LABELS, NETWORK, SGD, SHAPE, WIDTH, Linear, compiled, copy, make_problem


@pytest.fixture(scope="module")
def unit():
    return PDDM(hidden=WIDTH, joint=WIDTH)


def test_a_backbone_computes_in_bfloat16_and_its_parameters_stay_float32():
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    rough = EmbeddingNetwork(Linear(), WIDTH, dtype="bfloat16")
    variables = jax.jit(NETWORK.init)(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.jit(rough.init)(jax.random.key(0), images))

    def total(params, network):
        x, _ = network.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return x[:, 0].sum(), x

    gradients = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    (exact, x), (gradient, near) = (gradients(variables["params"], of) for of in (NETWORK, rough))
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, near))} == {np.dtype(np.float32)}
    assert 1e-4 < np.abs(near - x).max() < 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.1 * np.abs(b).max()), gradient, exact)


def test_one_step_of_sgd_is_the_plain_one():
    problem = make_problem()
    before = copy(problem.state)
    after, logs = problem.step(problem.state, problem.batch)

    @jax.jit
    def plain(network_params, images):
        variables = {"params": network_params, "batch_stats": before.batch_stats}
        x, updated = NETWORK.apply(variables, images, train=True, mutable=["batch_stats"])
        return contrastive_loss(x, LABELS), updated["batch_stats"]

    differentiate = jax.value_and_grad(plain, has_aux=True)
    (value, batch_stats), gradients = differentiate(
        before.params["network"], np.asarray(problem.batch.images)
    )
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before.params["network"], gradients)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def norm(tree):
        return np.sqrt(sum(np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree)))

    jax.tree.map(close, after.params["network"], expected)
    jax.tree.map(close, after.batch_stats, batch_stats)
    jax.tree.map(np.testing.assert_array_equal, copy(after.params["unit"]), before.params["unit"])
    close(logs["loss"], value)
    close(logs["gradient_norm"], norm(gradients))
    close(logs["parameter_norm"], norm(after.params))


@pytest.mark.parametrize(("objective", "name"), [("pddm", "adamw"), ("contrastive", "sgd")])
def test_the_loss_falls_and_one_compilation_serves_all_steps(objective, name):
    problem = make_problem(objective, name, learning_rate=0.01)
    state, first = problem.state, copy(problem.state)
    losses = []
    for _ in range(30):
        state, logs = problem.step(state, problem.batch)
        losses.append(float(logs["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 30
    assert problem.step._cache_size() == 1
    trained = ["batch_stats"] if objective == "contrastive" else ["params", "batch_stats"]
    for part in trained:
        changed = jax.tree.map(
            lambda a, b: bool((a != b).any()), getattr(first, part), getattr(state, part)
        )
        assert all(jax.tree.leaves(changed)), changed


def test_the_state_is_donated_and_stays_replicated():
    problem = make_problem()
    after, _ = problem.step(problem.state, problem.batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(problem.state.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves((after, problem.batch)))
    assert all(x.is_fully_replicated for x in jax.tree.leaves(after))


def test_the_seed_makes_the_state(unit):
    optimizer = make_optimizer(**SGD, steps=1)
    again, other = (init_state(NETWORK, unit, optimizer, SHAPE, seed, data_mesh()) for seed in (0, 1))
    first, _ = compiled("contrastive", "sgd", 0.1)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    for part, layer in (("network", "embedding"), ("unit", "joint")):
        assert (again.params[part][layer]["kernel"] != other.params[part][layer]["kernel"]).any()
    assert int(again.step) == 0
    assert all(x.is_fully_replicated for x in jax.tree.leaves(again))


def test_embed_is_the_network_batch_by_batch():
    problem = make_problem()
    state, _ = problem.step(problem.state, problem.batch)  # so that there are statistics
    images = np.random.default_rng(0).integers(0, 256, (24, *SHAPE), dtype=np.uint8)
    found = make_embed(NETWORK, data_mesh())(state, images.reshape(3, 8, *SHAPE))
    variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
    np.testing.assert_allclose(found, NETWORK.apply(variables, images), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_embed_is_compiled_once(caplog):
    state = make_problem().state
    embed = make_embed(NETWORK, data_mesh())
    batches = np.zeros((4, 8, *SHAPE), np.uint8)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        embed(state, batches[:1])
        assert "ompil" in caplog.text
        caplog.clear()
        for n in (1, 3, 4):
            embed(state, batches[:n])
    assert "ompil" not in caplog.text
