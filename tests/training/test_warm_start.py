"""The weights of a run or of a file as the initial weights of another run."""

import json

import jax
import numpy as np
import pytest

from experiments.configs import quickstart
from pddm_jax import PDDM
from pddm_jax.sharding import data_mesh
from pddm_jax.system.files import write_sealed
from pddm_jax.training import warm_start
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.restore import network_of
from pddm_jax.training.state import init_state
from tests.helpers.training import NETWORK

SHAPE = (9, 9, 1)


def fields_of(width):
    fields = json.loads(quickstart.get_config().to_json())
    fields["network"] |= {"embedding_dim": width, "unit_dim": 3}
    return fields


def fresh(fields, seed):
    optimizer = make_optimizer(**fields["optimizer"], steps=fields["train"]["steps"])
    return init_state(network_of(fields["network"]), PDDM(3, 3), optimizer, SHAPE, seed, data_mesh())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run, and the state of its checkpoint."""
    workdir, fields = tmp_path_factory.mktemp("run"), fields_of(4)
    state = fresh(fields, seed=1)
    with Checkpoints(workdir / "checkpoints", 1) as checkpoints:
        checkpoints.save(1, state.replace(step=state.step + 1))
    more = {"image_shape": SHAPE, "devices": 1, "classes": 0, "train_sha256": "0" * 64}
    write_sealed(workdir / "config.json", fields | more)
    return workdir, state


@pytest.mark.parametrize(("width", "head"), [(4, True), (5, False)])
def test_the_backbone_is_copied_and_a_head_of_the_same_width(width, head, run):
    workdir, theirs = run
    fields = fields_of(width)
    before = fresh(fields, seed=2)
    given = fields["network"] | {"pretrained": str(workdir)}
    after = warm_start.with_weights(before, given, SHAPE, data_mesh())
    assert int(after.step) == 0
    for name, part in after.params["network"].items():
        source = theirs if head or name == "backbone" else before
        jax.tree.map(np.testing.assert_array_equal, part, source.params["network"][name])
    jax.tree.map(np.testing.assert_array_equal, after.params["unit"], before.params["unit"])
    kernel = after.params["network"]["backbone"]["Conv_0"]["kernel"]
    assert not np.array_equal(kernel, before.params["network"]["backbone"]["Conv_0"]["kernel"])


def test_a_run_of_other_images_is_refused(run):
    workdir, _ = run
    fields = fields_of(4)
    given = fields["network"] | {"pretrained": str(workdir)}
    with pytest.raises(ValueError, match=r"images of shape \[9, 9, 1\], not \[8, 8, 1\]"):
        warm_start.with_weights(fresh(fields, 2), given, (8, 8, 1), data_mesh())


def test_a_folder_that_holds_no_finished_run_is_refused(run, tmp_path):
    with pytest.raises(OSError, match="holds no finished run"):
        warm_start.source_of_weights(str(tmp_path), "small_cnn", NETWORK)
    with pytest.raises(OSError, match="holds no finished run"):
        warm_start.source_of_weights(str(run[0]), "small_cnn", NETWORK)
    assert warm_start.source_of_weights(None, "small_cnn", NETWORK) is None
