"""The train step, the initial state, the loop over steps, and the forward pass that embeds."""

import logging
from typing import NamedTuple

import jax
import numpy as np
import pytest

from pddm_jax import PDDM
from pddm_jax.losses import contrastive_loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.sharding import data_mesh
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import init_state
from pddm_jax.training.step import Diverged, PendingLogs, fit, make_embed
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


class Counter(NamedTuple):
    step: int


def count(bad=()):
    def step(state, batch):
        number = state.step + 1
        return Counter(number), {
            "loss": np.float32(np.inf if number in bad else batch),
            "other": np.float32(1),
        }

    return step


def test_fit_goes_on_from_the_states_step_and_logs_the_step_itself():
    seen = []

    def after_step(step, state, logs):
        assert state.step == step
        seen.append((step, logs()["loss"] if step % 2 else None))
        return False

    final = fit(Counter(3), count(), iter(range(100)), 7, after_step)
    assert final.step == 7
    assert seen == [(4, None), (5, 1.0), (6, None), (7, 3.0)]


def test_fit_stops_when_after_step_returns_true():
    batches = iter(range(100))
    assert fit(Counter(0), count(), batches, 50, lambda step, state, logs: step == 5).step == 5
    assert next(batches) == 5


@pytest.mark.parametrize("first", [1, 3, 6, 7])
def test_fit_names_the_first_step_that_was_not_finite(first):
    asked = []

    def after_step(step, state, logs):
        asked.append(step)
        if step in (3, 7):
            logs()
        return False

    with pytest.raises(FloatingPointError, match=rf"at step {first}: loss = inf"):
        fit(Counter(0), count({*range(first, 9)}), iter(range(100)), 8, after_step)
    assert asked[-1] == (3 if first <= 3 else 7)


def test_fit_names_one_bad_step_between_good_ones():
    with pytest.raises(FloatingPointError, match="at step 2: "):
        fit(Counter(0), count({2}), iter(range(9)), 5, lambda step, state, logs: step == 5 and bool(logs()))


def test_every_step_is_observed_once_in_order(monkeypatch):
    monkeypatch.setattr("pddm_jax.training.step.MOST_PENDING", 4)
    seen = []

    def step(state, batch):
        return Counter(state.step + 1), {"loss": np.float32(batch)}

    def after_step(step, state, logs):
        if step in (5, 7):
            assert logs()["loss"] == step - 1
            logs()
        return False

    fit(Counter(2), step, iter(range(2, 99)), 13, after_step, lambda *given: seen.append(given))
    assert seen == [(step, {"loss": step - 1}) for step in range(3, 3 + len(seen))]
    assert seen[-1][0] >= 10  # at most three steps wait to be fetched


def test_a_step_that_is_not_finite_is_not_observed():
    seen = []
    logs = PendingLogs(lambda *given: seen.append(given), 0)
    for step, loss in ((1, 1.0), (2, np.nan), (3, 1.0)):
        logs.add(step, {"loss": np.float32(loss), "other": np.float32(1)})
    with pytest.raises(Diverged, match=r"training diverged at step 2: loss = nan") as caught:
        logs()
    assert caught.value.step == 2
    assert [*caught.value.values] == ["loss"]
    assert seen == [(1, {"loss": 1.0, "other": 1.0})]
