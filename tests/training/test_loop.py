"""The training loop: steps, stops, logs, and the first step that is not finite."""

from typing import NamedTuple

import numpy as np
import pytest

from pddm_jax.training.loop import Diverged, PendingLogs, fit


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


def test_fit_stops_where_it_is_told_to():
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

    with pytest.raises(FloatingPointError, match=rf"at step {first}: .*'loss': inf"):
        fit(Counter(0), count({*range(first, 9)}), iter(range(100)), 8, after_step)
    assert asked[-1] == (3 if first <= 3 else 7)


def test_fit_names_one_bad_step_between_good_ones():
    with pytest.raises(FloatingPointError, match="at step 2: "):
        fit(Counter(0), count({2}), iter(range(9)), 5, lambda step, state, logs: step == 5 and bool(logs()))


def test_every_step_is_observed_once_in_order(monkeypatch):
    monkeypatch.setattr("pddm_jax.training.loop.MOST_PENDING", 4)
    seen = []

    def step(state, batch):
        return Counter(state.step + 1), {"loss": np.float32(batch)}

    def after_step(step, state, logs):
        if step in (5, 7):
            assert logs()["loss"] == step - 1
            logs()
        return False

    fit(Counter(2), step, iter(range(2, 99)), 13, after_step, lambda *told: seen.append(told))
    assert seen == [(step, {"loss": step - 1}) for step in range(3, 3 + len(seen))]
    assert seen[-1][0] >= 10  # so few are left that nobody asked for


def test_a_step_that_is_not_finite_is_not_observed():
    seen = []
    logs = PendingLogs(lambda *told: seen.append(told), 0)
    for step, loss in ((1, 1.0), (2, np.nan), (3, 1.0)):
        logs.add(step, {"loss": np.float32(loss), "other": np.float32(1)})
    with pytest.raises(Diverged, match=r"training diverged at step 2: \{'loss': nan\}") as caught:
        logs()
    assert caught.value.step == 2
    assert [*caught.value.values] == ["loss"]
    assert seen == [(1, {"loss": 1.0, "other": 1.0})]
