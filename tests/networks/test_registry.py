"""Named networks: widths, counts of parameters, recomputed blocks, and names of variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax.networks import make_network, resnet
from pddm_jax.networks.alexnet import AlexNet
from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.googlenet import GoogLeNet
from pddm_jax.networks.resnet import ResNet50

NETWORKS = {
    "alexnet": (AlexNet(), 4096),
    "efficientnet_lite0": (EfficientNetLite0(), 1280),
    "googlenet": (GoogLeNet(), 1024),
    "googlenet without BatchNorm": (GoogLeNet(batch_norm=False), 1024),
    "resnet50": (ResNet50(), 2048),
}


@functools.cache
def shapes_of(network):
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize("name", NETWORKS)
def test_features_have_one_width_for_images_of_any_size(name):
    network, width = NETWORKS[name]
    train = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    out, updated = jax.eval_shape(train, shapes_of(network), jnp.zeros((3, 75, 231, 3)))
    assert out.shape == (3, width)
    assert updated == {key: x for key, x in shapes_of(network).items() if key == "batch_stats"}


@pytest.mark.parametrize(
    ("name", "millions"),  # without classifiers: the published counts less theirs
    [("alexnet", 57.004), ("efficientnet_lite0", 3.371), ("googlenet", 5.600), ("resnet50", 23.508)],
)
def test_counts_of_parameters(name, millions):
    network, _ = NETWORKS[name]
    count = sum(x.size for x in jax.tree.leaves(shapes_of(network)["params"]))
    assert count / 1e6 == pytest.approx(millions, abs=6e-4)


@pytest.mark.parametrize("network", [ResNet50, GoogLeNet, EfficientNetLite0])
def test_blocks_that_are_computed_again_have_the_same_variables(network):
    kept, again = shapes_of(network()), shapes_of(network(remat=True))
    assert jax.tree.structure(kept) == jax.tree.structure(again)
    assert jax.tree.leaves(kept) == jax.tree.leaves(again)


@pytest.mark.long
def test_blocks_that_are_computed_again_give_the_same_gradient_and_keep_less_for_it(monkeypatch):
    monkeypatch.setattr(resnet, "STAGES", ((4, 8), (2, 8)))
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    kept, again = (make_network("resnet50", 4, remat=remat) for remat in (False, True))
    variables = jax.jit(kept.init)(jax.random.key(0), images)

    def loss(params, network):
        of = variables | {"params": params}
        x, updated = network.apply(of, images, train=True, mutable=["batch_stats"])
        return x[:, 0].sum(), updated

    found, held = [], []
    for network in (kept, again):
        of_network = functools.partial(loss, network=network)
        found.append(jax.jit(jax.grad(of_network, has_aux=True))(variables["params"]))
        pullback = jax.eval_shape(
            lambda params, f=of_network: jax.vjp(f, params, has_aux=True)[1], variables["params"]
        )
        held.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pullback)))
    scale = max(np.abs(x).max() for x in jax.tree.leaves(found[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * scale), *found)
    assert held[1] < 0.7 * held[0]


def test_only_blocks_can_be_computed_again():
    with pytest.raises(ValueError, match=r"network\.remat.*'resnet50'.*got 'alexnet'"):
        make_network("alexnet", 4, remat=True)


@pytest.mark.parametrize("name", ["alexnet", "resnet50", "small_cnn"])
def test_variables_of_the_named_networks_keep_the_names_that_checkpoints_hold(name):
    variables = jax.eval_shape(
        make_network(name, 4).init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8)
    )
    stats = variables["batch_stats"]
    assert {*variables["params"]} == {"backbone", "embedding"}
    assert variables["params"]["embedding"].keys() == {"kernel"}
    assert {*stats} == ({"backbone", "centre"} if name == "resnet50" else {"centre"})
    assert {key: x.shape for key, x in stats["centre"].items()} == {"mean": (4,), "var": (4,)}
