"""Pairwise work shared out: the same on one device, on eight, and on two processes of two each."""

import jax
import numpy as np
import pytest

import pddm_jax
from tests.conftest import free_address
from tests.helpers import oracles, shared_out


@pytest.fixture(scope="module")
def alone():
    """On one device."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in shared_out.SETTINGS.items():
            patch.setattr(module, name, value)
        jax.clear_caches()
        yield shared_out.found()
    jax.clear_caches()


def assert_same(path, alone, devices):
    """Mined indices exactly, losses and gradients to 1e-5; and no device does all or holds all pairs."""
    together = dict(np.load(path))
    assert together.pop("devices") == devices
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        if name.startswith("mined"):
            np.testing.assert_array_equal(together[name], value, name)
        elif name.endswith("sides"):
            assert together[name] < 2, name
        elif not name.endswith("loops"):
            np.testing.assert_allclose(together[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert shared_out.STEPS not in together["pddm loops"]
    assert -(-shared_out.STEPS // devices) in together["pddm loops"]


def test_one_device_mines_what_the_loops_do(alone):
    params, x, labels = shared_out.batch(shared_out.RAGGED)
    *indices, valid = (alone[f"mined {name}"].tolist() for name in pddm_jax.Quadruplets._fields)
    assert valid == [True]
    expected = oracles.mine(pddm_jax.score_matrix(params, x), labels, "batch")
    assert [*zip(*indices, strict=True)] == expected
    assert all(np.isfinite(value).all() for value in alone.values())
    assert alone["quadruplet sides"] == 2  # so that it is seen below
    assert shared_out.STEPS in alone["pddm loops"]


def test_eight_devices(run_command, alone, tmp_path):
    status, _, err = run_command("tests.helpers.shared_out", tmp_path / "out.npz", devices=8)
    assert status == 0, err
    assert_same(tmp_path / "out.npz", alone, 8)


@pytest.mark.long
def test_two_processes_of_two_devices(start, end, alone, tmp_path):
    address = free_address()
    processes = [
        start("tests.helpers.shared_out", tmp_path / f"{rank}.npz", address, rank, devices=2)
        for rank in range(2)
    ]
    for status, _, err in [end(process) for process in processes]:
        assert status == 0, err
    for rank in range(2):
        assert_same(tmp_path / f"{rank}.npz", alone, 4)
