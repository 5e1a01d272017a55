"""Microbatches of the backbone against the whole batch and against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax.networks import make_network, resnet

BATCH = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def narrow(monkeypatch):
    """ResNets of one block."""
    monkeypatch.setattr(resnet, "STAGES", ((1, 4),))


def trained(apply, variables):
    """Of a sum over the embeddings: them, the gradient and the new statistics; and bytes held meanwhile."""
    weights = np.random.default_rng(1).normal(size=(len(BATCH), 4))

    def total(params):
        x, updated = apply(variables | {"params": params}, BATCH, train=True, mutable=["batch_stats"])
        return (x * weights).sum(), (x, updated)

    step = jax.jit(jax.grad(total, has_aux=True)).lower(variables["params"]).compile()
    gradient, (x, updated) = step(variables["params"])
    return {"embeddings": x, "gradient": gradient, **updated}, step.memory_analysis().temp_size_in_bytes


def assert_close(found, expected, tolerance):
    """Of each kind, in units of its greatest value."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for kind, values in expected.items():
        scale = max(np.abs(x).max() for x in jax.tree.leaves(values))
        for ours, theirs in zip(*map(jax.tree.leaves, (found[kind], values)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=kind)


FROZEN = {"freeze_batch_stats": True}


@pytest.mark.parametrize(
    ("name", "fields", "more", "tolerance"),
    [
        pytest.param("resnet50", FROZEN, {"microbatches": 2}, 1e-5, marks=pytest.mark.long),
        ("resnet50", FROZEN, {"microbatches": 4, "remat": True}, 1e-5),
        pytest.param("small_cnn", {}, {"microbatches": 4}, 1e-5, marks=pytest.mark.long),
        pytest.param("small_cnn", {"dtype": "bfloat16"}, {"microbatches": 2}, 5e-3, marks=pytest.mark.long),
    ],
)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(name, fields, more, tolerance, narrow):
    whole, parts = make_network(name, 4, **fields), make_network(name, 4, **fields, **more)
    variables = jax.jit(whole.init)(jax.random.key(0), BATCH)
    (expected, _), (found, _) = (trained(network.apply, variables) for network in (whole, parts))
    assert_close(found, expected, tolerance)


@pytest.mark.long
def test_the_backbones_normalisations_see_a_part_and_the_heads_the_batch_and_memory_is_for_a_part(narrow):
    whole, parts = (make_network("resnet50", 4, microbatches=parts) for parts in (1, 4))
    variables = jax.jit(whole.init)(jax.random.key(0), BATCH)

    def looped(variables, images, train, mutable):
        params, statistics = variables["params"], variables["batch_stats"]
        of_backbone, features = statistics["backbone"], []
        for part in np.split((images - np.array(resnet.MEAN)) / np.array(resnet.STD), 4):
            of = {"params": params["backbone"], "batch_stats": of_backbone}
            x, updated = whole.backbone.apply(of, part.astype(np.float32), train=train, mutable=mutable)
            of_backbone, features = updated["batch_stats"], [*features, x]
        x = jnp.concatenate(features) @ params["embedding"]["kernel"]
        seen = {"mean": x.mean(0), "var": x.var(0)}
        centre = {name: 0.9 * old + 0.1 * seen[name] for name, old in statistics["centre"].items()}
        x = (x - seen["mean"]) / jnp.sqrt(seen["var"] + 1e-5)
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        return x, {"batch_stats": {"backbone": of_backbone, "centre": centre}}

    (found, less), (expected, _) = (trained(apply, variables) for apply in (parts.apply, looped))
    assert_close(found, expected, 1e-5)
    other, held = trained(whole.apply, variables)
    assert np.abs(found["embeddings"] - other["embeddings"]).max() > 0.01
    assert less < 0.4 * held


def test_only_training_takes_a_batch_in_parts():
    whole, parts = (make_network("small_cnn", 4, microbatches=parts) for parts in (1, 4))
    images = BATCH[:6]
    variables = jax.jit(parts.init)(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.jit(whole.init)(jax.random.key(0), images))
    found, expected = (jax.jit(network.apply)(variables, images) for network in (parts, whole))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="6 images does not divide over 1 devices x 4 microbatches"):
        parts.apply(variables, images, train=True, mutable=["batch_stats"])


@pytest.mark.long
def test_parts_take_an_equal_share_of_each_of_eight_devices_and_send_no_images(run_command):
    status, out, err = run_command("tests.helpers.microbatches", devices=8)
    assert status == 0, err
    assert out.split() == ["8"]
