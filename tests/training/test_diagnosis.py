"""Signs of failing training: collapse, and batches without quadruplets."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.training import diagnosis
from pddm_jax.training.diagnosis import (
    Alarm,
    Collapse,
    MiningCounts,
    counts_of_old,
    embedding_statistics,
    total_without,
)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@given(
    seed=st.integers(0, 99),
    n=st.integers(2, 40),
    d=st.integers(2, 8),
    near=st.sampled_from([1e-4, 1e-2, 0.3, 1, 30]),
)
@settings(max_examples=40, deadline=None)
def test_the_spread_is_that_of_its_definition(seed, n, d, near):
    rng = np.random.default_rng(seed)
    x = unit(rng.normal(size=d) + near * rng.normal(size=(n, d)))
    wide = x.astype(np.float64)
    squared = ((wide[:, None] - wide[None]) ** 2).sum(-1)
    found = embedding_statistics(x)
    # Half of the mean squared distance of all ordered pairs, each image with itself among them.
    # Below a millionth of the mean it is rounding of float32, and 0.
    np.testing.assert_allclose(found.embedding_std, np.sqrt(squared.mean() / 2), rtol=1e-6, atol=1e-6)
    singular = np.linalg.svd(wide - wide.mean(0), compute_uv=False)
    shares = singular[singular > 1e-12 * singular[0]] / singular.sum()
    np.testing.assert_allclose(found.effective_rank, np.exp(-np.sum(shares * np.log(shares))), rtol=1e-3)


def test_spread_of_blocks_is_that_of_all(monkeypatch):
    x = unit(np.random.default_rng(0).normal(size=(100, 6)))
    whole = embedding_statistics(x)
    monkeypatch.setattr(diagnosis, "BLOCK", 7)
    np.testing.assert_allclose(embedding_statistics(x), whole, rtol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 9])
def test_one_point_has_no_deviation(n):
    assert embedding_statistics(np.full((n, 5), 0.3, np.float32)) == (0.0, 1.0)


def test_even_and_flat_spreads():
    even = embedding_statistics(np.vstack([np.eye(4), -np.eye(4)]).astype(np.float32))
    np.testing.assert_allclose(even, (1, 4), rtol=1e-6)
    line = embedding_statistics(unit(np.array([[1, 0.2, 0], [1, 0, 0], [1, -0.2, 0]])))
    assert line.effective_rank < 1.3


def test_collapse_is_told_once_until_it_is_over():
    told, rng = [], np.random.default_rng(0)
    good = unit(rng.normal(size=(50, 8)))
    point = unit(np.ones(8) + 1e-3 * rng.normal(size=(50, 8)))
    line = unit(np.outer(rng.normal(size=50), np.ones(8)) + 1e-3 * rng.normal(size=(50, 8)))
    watch = Collapse(told.append, classes=7)
    rows = [watch.row(step, x) for step, x in enumerate((good, point, point, good, line))]
    assert len(told) == 2
    assert "at step 1: embedding_std 0.00" in told[0]
    assert "learning_rate" in told[0]
    assert "at step 4: effective_rank 1." in told[1]
    assert [{*row} for row in rows] == [{"embedding_std", "effective_rank"}] * 5
    json.dumps(rows, allow_nan=False)
    watch.row(5, good)
    watch.row(6, good[:1])
    assert len(told) == 2  # one image is no collapse


def test_few_directions_are_enough_for_few_classes():
    flat = np.random.default_rng(0).normal(size=(50, 20))
    flat[:, 3:] = 0
    for classes, warnings in ((4, 0), (40, 1)):
        told = []
        Collapse(told.append, classes).row(1, unit(flat))
        assert len(told) == warnings


def test_an_alarm_goes_off_once_until_it_is_over():
    told = []
    alarm = Alarm(told.append)
    for number, wrong in enumerate([False, True, True, False, True]):
        alarm.set(wrong, str(number))
    assert told == ["warning: 1", "warning: 4"]


def test_quadruplets_are_counted_from_row_to_row_and_over_a_restart():
    told, valid = [], [4.0, 0.0, 2.0, 6.0, 6.0, 0.0]

    def rows(counts, steps):
        found = []
        for step in steps:
            counts.observe(step, {"loss": 1.0, "valid_quadruplets": valid[step - 1]})
            if step == 4:
                known.append(json.loads(json.dumps(counts.fields())))
            if step % 3 == 0:
                found.append(counts.row(step))
        return found

    known = []
    whole = rows(MiningCounts(told.append), range(1, 7))
    assert whole == [
        {"valid_quadruplets": 2.0, "batches_without_quadruplets": 1},
        {"valid_quadruplets": 4.0, "batches_without_quadruplets": 1},
    ]
    assert total_without([{"loss": 1.0}, *whole]) == 2
    assert len(told) == 1
    assert "1 of the 3 batches up to step 3" in told[0]

    later = MiningCounts(told.append)
    later.resume(known[0])
    assert rows(later, range(5, 7)) == whole[1:]


def test_counts_that_an_earlier_version_kept_in_a_file_are_taken_up(tmp_path):
    (tmp_path / "mining.json").write_text('{"4": [3, 5.0, 1]}')
    assert counts_of_old(tmp_path / "mining.json", 4) == {"batches": 3, "quadruplets": 5.0, "without": 1}
    for path, step in ((tmp_path / "mining.json", 5), (tmp_path / "none", 4)):
        assert counts_of_old(path, step) == {"batches": 0, "quadruplets": 0.0, "without": 0}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"4": 3}', '{"4": [1, 2]}', '{"4": ["x", 2, 3]}'])
def test_damaged_counts_are_named(text, tmp_path):
    (tmp_path / "mining.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"mining\.json is damaged"):
        counts_of_old(tmp_path / "mining.json", 4)


def test_objectives_that_do_not_mine_count_nothing():
    counts = MiningCounts(print)
    counts.observe(1, {"loss": 1.0})
    assert counts.row(1) == {}
    assert total_without([{"loss": 1.0}]) is None
