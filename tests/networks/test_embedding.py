"""Embedding networks around modules of one's own, against NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pddm_jax.losses.objectives import make_objective
from pddm_jax.networks import embedding_network
from pddm_jax.pddm.unit import PDDM
from pddm_jax.sharding import data_mesh, global_batches
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import init_state
from pddm_jax.training.step import make_embed, make_train_step
from pddm_jax.types import Batch

SHAPE = (8, 8, 3)
LABELS = np.repeat(np.arange(4, dtype=np.int32), 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (len(LABELS), *SHAPE), dtype=np.uint8)


class Normalized(nn.Module):
    """With batch statistics, and a required keyword `train`."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(6, (3, 3), (2, 2), use_bias=False)(images)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)).mean((1, 2))


class Plain(nn.Module):
    """Neither batch statistics nor an argument `train`."""

    @nn.compact
    def __call__(self, pixels):
        return nn.Dense(5, name="layer")(pixels.reshape(len(pixels), -1))


class Half(nn.Module):
    """Computes in bfloat16 by its own choice."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(5, dtype=jnp.bfloat16)(images.reshape(len(images), -1))


class Model(nnx.Module):
    """A Flax NNX model with batch statistics."""

    def __init__(self, width, rngs):
        self.linear = nnx.Linear(192, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)

    def __call__(self, images, train):
        return self.norm(self.linear(images.reshape(len(images), -1)), use_running_average=not train)


class Bridge(nn.Module):
    """The NNX model as a module of Linen."""

    @nn.compact
    def __call__(self, images, train=False):
        return nnx.bridge.ToLinen(Model, args=(6,), name="model")(images, train=train)


SEQUENTIAL = nn.Sequential([nn.Conv(4, (8, 8), padding="VALID"), nn.relu, lambda x: x.reshape(len(x), -1)])
OWN = {
    "with batch statistics": Normalized(),
    "plain": Plain(),
    "sequential": SEQUENTIAL,
    "bfloat16": Half(),
    "NNX": Bridge(),
}
each_backbone = pytest.mark.parametrize("backbone", OWN.values(), ids=OWN.keys())


@pytest.mark.parametrize("backbone", [Normalized(), Plain()], ids=["with batch statistics", "plain"])
def test_one_step_trains_a_module_of_ones_own(backbone):
    network, mesh = embedding_network(backbone, embedding_dim=7), data_mesh()
    optimizer = make_optimizer("sgd", 0.1, 0.0, "constant", 10.0, 0, 1.0, 1.0, steps=5)
    state = init_state(network, PDDM(4, 4), optimizer, SHAPE, 0, mesh)
    before = jax.tree.map(np.array, state)
    loss, _ = make_objective("contrastive", pairs=4)
    (batch,) = global_batches(iter([Batch(IMAGES, LABELS)]), mesh)
    state, logs = make_train_step(network, loss, optimizer, mesh)(state, batch)
    assert np.isfinite(logs["loss"])
    assert jax.tree.structure(state) == jax.tree.structure(before)
    for part in ("backbone", "embedding"):
        leaves = zip(*(jax.tree.leaves(of.params["network"][part]) for of in (before, state)), strict=True)
        assert any((np.asarray(b) != a).any() for a, b in leaves)
    assert ("backbone" in before.batch_stats) == (backbone == Normalized())
    moved = jax.tree.map(
        lambda a, b: bool((a != np.asarray(b)).any()), before.batch_stats, state.batch_stats
    )
    assert all(jax.tree.leaves(moved))
    found = make_embed(network, mesh)(state, [IMAGES])
    assert found.shape == (len(IMAGES), 7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def centered(x, statistics=None):
    """Batch normalization without scale or bias, and unit length, in float64."""
    mean, var = (x.mean(0), x.var(0)) if statistics is None else (statistics["mean"], statistics["var"])
    x = (x - mean) / np.sqrt(var + 1e-5)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 255.0), ((120.0, 110.0, 100.0), (60.0, 61.0, 62.0))])
def test_a_plain_backbone_against_numpy(mean, std):
    network = embedding_network(Plain(), 4, mean, np.array(std))
    variables = jax.device_get(jax.jit(network.init)(jax.random.key(1), IMAGES))
    layer, kernel = (variables["params"][part] for part in ("backbone", "embedding"))
    pixels = ((IMAGES.astype(np.float64) - mean) / std).reshape(len(IMAGES), -1)
    features = pixels @ layer["layer"]["kernel"] + layer["layer"]["bias"]
    expected = features @ kernel["kernel"].astype(np.float64)
    trained, updated = network.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(trained, centered(expected), atol=1e-4)
    found = network.apply(variables | updated, IMAGES)
    np.testing.assert_allclose(found, centered(expected, updated["batch_stats"]["centre"]), atol=1e-4)
    whole = embedding_network(Plain(), 0, mean, std).apply({"params": {"backbone": layer}}, IMAGES)
    np.testing.assert_allclose(whole, features / np.linalg.norm(features, axis=1, keepdims=True), atol=1e-5)


def test_a_gray_image_is_given_as_many_channels_as_the_mean():
    network = embedding_network(Plain(), 4, mean=(120, 110, 100), std=60)
    gray = IMAGES[..., :1]
    variables = jax.jit(network.init)(jax.random.key(0), IMAGES)
    found, expected = (network.apply(variables, x) for x in (gray, gray.repeat(3, axis=-1)))
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="images must have 3 channels, as mean and std, or 1, got 2"):
        network.apply(variables, IMAGES[..., :2])


@pytest.mark.parametrize("backbone", [Normalized(), Bridge()], ids=["Linen", "NNX"])
def test_frozen_batch_statistics_stay(backbone):
    network = embedding_network(backbone, 4, freeze_batch_stats=True)
    variables = jax.jit(network.init)(jax.random.key(0), IMAGES)
    updated = network.apply(variables, IMAGES, train=True, mutable=["batch_stats"])[1]["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, updated["backbone"], variables["batch_stats"]["backbone"])


@each_backbone
def test_modules_of_ones_own_take_microbatches_and_bfloat16(backbone):
    whole = embedding_network(backbone, 4, freeze_batch_stats=True)
    parts = embedding_network(backbone, 4, dtype="bfloat16", freeze_batch_stats=True, microbatches=2)
    variables = jax.jit(whole.init)(jax.random.key(0), IMAGES)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.jit(parts.init)(jax.random.key(0), IMAGES))
    expected, found = (
        jax.jit(
            lambda x, network=network: network.apply(variables, x, train=True, mutable=["batch_stats"])
        )(IMAGES)[0]
        for network in (whole, parts)
    )
    np.testing.assert_allclose(found, expected, atol=0.1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"backbone": Plain}, r"flax\.linen\.Module, got the class Plain: pass Plain\(\)"),
        ({"backbone": np.tanh}, r"flax\.linen\.Module, got the instance ufunc"),
        ({"embedding_dim": -1}, r"embedding_dim must be 0 or more, got -1"),
        ({"embedding_dim": True}, r"embedding_dim must be an integer, got True"),
        ({"dtype": "float16"}, r"dtype must be one of .*'bfloat16'.* got 'float16'"),
        ({"microbatches": 0}, r"microbatches must be 1 or more, got 0"),
        ({"mean": np.nan}, r"mean must be a finite number.* got nan"),
        ({"std": ()}, r"std must be a finite number.* got \(\)"),
        ({"std": (1.0, 0.0)}, r"std must be above 0 .* got \(1\.0, 0\.0\)"),
        ({"mean": (1, 2, 3), "std": (1, 2)}, r"mean and std must have one length, got 3 and 2"),
    ],
)
def test_bad_arguments_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        embedding_network(**{"backbone": Plain()} | fields)


def test_a_backbone_that_returns_maps_is_refused():
    network = embedding_network(nn.Conv(4, (3, 3)))
    with pytest.raises(ValueError, match=r"backbone must return features \[b, f\], got \[8, 8, 8, 4\]"):
        jax.eval_shape(network.init, jax.random.key(0), IMAGES)
