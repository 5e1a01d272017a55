"""Blocks that all processes run together."""

from typing import NamedTuple

import pytest

from pddm_jax.system import agreement
from pddm_jax.system.lock import Lock
from pddm_jax.training.checkpoint import Checkpoints


class Elsewhere(NamedTuple):
    """A process that receives the problem of another one, and reports its own."""

    problem: str
    told: list[str]

    def __call__(self, problem):
        self.told.append(problem)
        return problem or self.problem


def test_what_fails_in_one_process_ends_the_step_in_all(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(agreement, "any_problem", Elsewhere("no space left for /x", told))
    with pytest.raises(agreement.FailedElsewhere, match="no space left"), agreement.share_errors():
        pass
    with pytest.raises(ValueError, match="mine"), agreement.share_errors():
        raise ValueError("mine")
    with pytest.raises(KeyError), agreement.share_errors():
        raise KeyError
    assert told == ["", "mine", "KeyError"]
    with pytest.raises(agreement.FailedElsewhere), Lock(tmp_path, "--workdir"):
        pass
    with pytest.raises(agreement.FailedElsewhere), Checkpoints(tmp_path / "x", 1):
        pass
