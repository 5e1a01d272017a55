"""Runs from Python that begin with the weights of another run from Python."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest

import pddm_jax
from pddm_jax.system.digests import digest_of
from pddm_jax.training import warm_start
from tests.helpers.small_runs import FIELDS, LABELS, Flat, leaves, noisy
from tests.helpers.training import NETWORK


def train(workdir, steps=2, **more):
    fields = FIELDS | more.pop("config", {})
    if "optimizer" in more:
        fields = {name: x for name, x in fields.items() if not name.startswith("optimizer.")}
    given = {"config": fields} | more
    return pddm_jax.train(noisy(1), LABELS, workdir=workdir, steps=steps, **given)


def own_loss(params, embeddings, labels):
    return pddm_jax.triplet_loss(embeddings, labels), {}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return train(tmp_path_factory.mktemp("first"), config={"train.checkpoint_every": 1})


def from_run(workdir, **fields):
    return {"config": {"network.pretrained": str(workdir), "optimizer.learning_rate": 1e-12} | fields}


@pytest.mark.long
def test_a_run_begins_with_the_weights_of_another(first, tmp_path):
    ours, theirs = leaves(train(tmp_path, 1, **from_run(first.workdir))), leaves(first)
    kernels = [name for name in theirs if name.startswith("['params']['network']") and "kernel" in name]
    assert len(kernels) > 1
    for name in kernels:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.long
def test_its_origin_is_the_checkpoint_and_the_config(first):
    origin = warm_start.source_of_weights(str(first.workdir), "small_cnn", NETWORK)
    assert origin["params_sha256"] == digest_of(first.state.params, first.state.batch_stats)
    assert warm_start.describe_source(origin) == (
        f"{first.workdir} (pddm on arrays, images given from Python; step 2, last)"
    )
    json.dumps(origin)


@pytest.mark.long
def test_an_objective_and_an_optimizer_may_be_given(tmp_path):
    first = train(tmp_path / "first", objective=own_loss, optimizer=optax.sgd(0.1))
    more = from_run(first.workdir, **{"train.checkpoint_every": 1})
    run = train(tmp_path / "second", 1, **more)
    kernel = run.state.params["network"]["embedding"]["kernel"]
    expected = jax.device_get(first.state.params["network"]["embedding"]["kernel"])
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-7)
    assert "own_loss on arrays" in warm_start.describe_source(
        warm_start.source_of_weights(str(first.workdir), "small_cnn", NETWORK)
    )


@pytest.mark.long
def test_what_cannot_be_begun_with_is_refused_in_one_line(first, tmp_path):
    shutil.copytree(first.workdir, tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "2")
    train(tmp_path / "own", network=Flat())
    for name, error, words in (
        ("stopped", FileNotFoundError, "holds no finished run: it has 1 of 2 steps"),
        (
            "own",
            ValueError,
            r"own was trained with a network given as a Python object \(Flat\(.*\)\): choose",
        ),
    ):
        with pytest.raises(error, match=words) as found:
            train(tmp_path / "run", **from_run(tmp_path / name))
        assert "\n" not in str(found.value)
    shutil.rmtree(tmp_path / "stopped" / "checkpoints")
    with pytest.raises(FileNotFoundError, match="no finished run: it has no checkpoint"):
        train(tmp_path / "run", **from_run(tmp_path / "stopped"))
    with pytest.raises(ValueError, match=r"is a run of network.name 'small_cnn', not 'alexnet'"):
        train(tmp_path / "run", network="alexnet", **from_run(first.workdir))


@pytest.mark.long
@pytest.mark.parametrize(("network", "words"), [("small_cnn", "network.pretrained"), (Flat(), "extended")])
def test_a_run_that_cannot_be_extended_says_what_to_do(network, words, tmp_path):
    fields = {"optimizer.schedule": "cosine"}
    train(tmp_path, 1, network=network, config=fields)
    with pytest.raises(ValueError, match=words) as found:
        train(tmp_path, 2, network=network, config=fields)
    assert ("network.pretrained" in str(found.value)) == (network == "small_cnn")
    assert "--" not in str(found.value)
