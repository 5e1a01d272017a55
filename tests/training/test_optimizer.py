"""Optimizers: schedules, weight decay, clipping, and rates of parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax.training.optimizer import make_optimizer
from tests.helpers.training import SGD


def test_unknown_optimizers_and_schedules_list_what_exists():
    with pytest.raises(ValueError, match=r"optimizer\.name.*'adamw', 'sgd'.*got 'lion'"):
        make_optimizer(**SGD | {"name": "lion"}, steps=1)
    with pytest.raises(ValueError, match=r"optimizer\.schedule.*'constant', 'cosine'.*got 'step'"):
        make_optimizer(**SGD | {"schedule": "step"}, steps=1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_is_on_kernels_only(name):
    fields = SGD | {"name": name, "weight_decay": 0.5}
    params = {
        "kernel": jnp.full((2, 3), 2.0),
        "filter": jnp.ones((3, 3, 1, 1)),
        "bias": jnp.ones(3),
        "scale": jnp.ones(()),
    }
    optimizer = make_optimizer(**fields, steps=10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 2, rtol=1e-6)
    np.testing.assert_allclose(updates["filter"], -0.1 * 0.5, rtol=1e-6)
    assert not updates["bias"].any()
    assert not updates["scale"].any()


@pytest.mark.parametrize(("schedule", "half", "last"), [("cosine", 0.05, 0.0), ("constant", 0.1, 0.1)])
def test_schedules(schedule, half, last):
    params, gradient = {"x": jnp.zeros(1)}, {"x": jnp.ones(1)}
    optimizer = make_optimizer(**SGD | {"name": "adamw", "schedule": schedule}, steps=8)
    state = optimizer.init(params)
    sizes = []
    for _ in range(9):
        updates, state = optimizer.update(gradient, state, params)
        sizes.append(-float(updates["x"][0]))  # Adam, on a constant gradient, moves by the rate
    np.testing.assert_allclose([sizes[0], sizes[4], sizes[8]], [0.1, half, last], atol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"x": jnp.zeros(1), "y": jnp.zeros(1)}
    optimizer = make_optimizer(**SGD | {"clip_norm": 1.0}, steps=1)
    gradients = {"x": jnp.array([30.0]), "y": jnp.array([40.0])}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose([updates["x"][0], updates["y"][0]], [-0.06, -0.08], rtol=1e-6)


def test_the_rate_warms_up_and_parts_have_rates_of_their_own():
    factors = {"pddm_lr_multiplier": 5.0, "backbone_lr_multiplier": 0.1}
    optimizer = make_optimizer(**SGD | factors | {"warmup": 4}, steps=10)
    params = {"network": {"backbone": jnp.zeros(1), "embedding": jnp.zeros(1)}, "unit": jnp.zeros(1)}
    state, moved = optimizer.init(params), []
    for _ in range(6):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        of_parts = updates["network"]["embedding"], updates["unit"], updates["network"]["backbone"]
        moved.append([-float(update[0]) for update in of_parts])
    momentum = np.cumsum(0.9 ** np.arange(6))
    expected = 0.1 * momentum * [0.2, 0.4, 0.6, 0.8, 1, 1]
    np.testing.assert_allclose([m[0] for m in moved], expected, rtol=1e-5)
    np.testing.assert_allclose([m[1] for m in moved], 5 * expected, rtol=1e-5)
    np.testing.assert_allclose([m[2] for m in moved], 0.1 * expected, rtol=1e-5)
