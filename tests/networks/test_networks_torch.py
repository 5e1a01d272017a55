"""Networks, converters and readers against PyTorch itself, where it is installed."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax.networks.alexnet import AlexNet, adaptive_mean
from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.googlenet import GoogLeNet, local_response_norm, max_pool
from pddm_jax.networks.pretrained.load import load_pretrained
from pddm_jax.networks.pretrained.tensors import read_tensors
from pddm_jax.networks.resnet import ResNet50

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

TOLERANCE = 1e-4  # of the size of what is compared
OURS = {
    "googlenet": GoogLeNet(),
    "resnet50": ResNet50(),
    "alexnet": AlexNet(),
    "efficientnet_lite0": EfficientNetLite0(),
}
THEIRS = {
    "googlenet": lambda: torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True),
    "resnet50": lambda: torchvision.models.resnet50(weights=None),
    "alexnet": lambda: torchvision.models.alexnet(weights=None),
    "efficientnet_lite0 of timm": lambda: timm.create_model("tf_efficientnet_lite0"),
}


def randomised(model):
    """Without dropout; kernels that keep the size of what flows, and BatchNorms that change it a little."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
        elif getattr(module, "weight", None) is not None:
            torch.nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                torch.nn.init.normal_(module.bias, 0, 0.3)
    return model


@functools.cache
def model_and_file(name, folder):
    torch.manual_seed(0)
    with torch.no_grad():
        model = randomised(THEIRS[name]())
    path = folder / f"{name}.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


def features_of(model, images):
    """What goes into the last linear layer."""
    kept = []
    last = [
        module for name, module in model.named_modules() if name in ("fc", "classifier", "classifier.6")
    ]
    handle = last[-1].register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    with torch.no_grad():
        model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    handle.remove()
    return kept[0].numpy()


def error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


def variables_from(path, name, images):
    ours = OURS[name]
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images)
    return load_pretrained(name, str(path), shapes)


def normal_images(seed, *shape):
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


@pytest.mark.parametrize("theirs", THEIRS)
def test_features(theirs, folder):
    model, path = model_and_file(theirs, folder)
    name = theirs.split()[0]
    images = normal_images(1, 2, 65, 97)
    found = jax.jit(OURS[name].apply)(variables_from(path, name, images), images)
    assert error(found, features_of(model.eval(), images)) < TOLERANCE


def test_timm_names_resnet50_as_torchvision_does():
    ours, theirs = timm.create_model("resnet50"), torchvision.models.resnet50(weights=None)
    assert {k: x.shape for k, x in ours.state_dict().items()} == {
        k: x.shape for k, x in theirs.state_dict().items()
    }


@pytest.mark.parametrize("theirs", [name for name in THEIRS if name != "alexnet"])
def test_features_and_running_statistics_in_training(theirs, folder):
    """PyTorch's running variance takes in n / (n - 1) of the variance of the batch, ours that variance."""
    model, path = model_and_file(theirs, folder)
    name = theirs.split()[0]
    images = normal_images(2, 8, 64, 64)
    before = variables_from(path, name, images)
    before64 = {
        key: np.asarray(x, np.float64) for key, x in flax.traverse_util.flatten_dict(before).items()
    }

    counts = []
    hooks = [
        module.register_forward_hook(lambda m, i, _: counts.append((m, i[0].numel() / i[0].shape[1])))
        for module in model.modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    ]
    state = {key: x.clone() for key, x in model.state_dict().items()}
    expected = features_of(model.train(), images)
    with torch.no_grad():
        for module, n in counts:
            old = state[next(k for k, m in model.named_modules() if m is module) + ".running_var"]
            module.running_var.copy_(0.9 * old + (module.running_var - 0.9 * old) * (n - 1) / n)
    torch.save(model.state_dict(), folder / "after.pth")
    after = variables_from(folder / "after.pth", name, images)["batch_stats"]
    for hook in hooks:
        hook.remove()
    model.load_state_dict(state)

    apply = jax.jit(functools.partial(OURS[name].apply, train=True, mutable=["batch_stats"]))
    found, updated = apply(before, images)
    assert error(found, expected) < TOLERANCE
    wanted = flax.traverse_util.flatten_dict(after)
    got = flax.traverse_util.flatten_dict(updated["batch_stats"])
    assert wanted.keys() == got.keys()
    for key, x in got.items():
        assert error(x, wanted[key]) < TOLERANCE, key
        assert error(x, before64["batch_stats", *key]) > 100 * TOLERANCE, key


def test_the_original_googlenet(folder):
    """torchvision's modules put together as the paper has them: bias, 5 x 5, response normalisation."""
    ours = GoogLeNet(batch_norm=False)
    images = normal_images(3, 2, 65, 97)
    variables = jax.jit(ours.init)(jax.random.key(0), images)
    rng = np.random.default_rng(4)
    variables = jax.tree.map(
        lambda x: x if x.ndim > 1 else jnp.asarray(rng.normal(size=x.shape) * 0.3, x.dtype), variables
    )

    def conv(x, tree, stride=1):
        kernel = torch.from_numpy(np.array(tree["conv"]["kernel"]).transpose(3, 2, 0, 1).copy())
        bias = torch.from_numpy(np.array(tree["conv"]["bias"]))
        return torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2))

    pool = torch.nn.MaxPool2d(3, 2, ceil_mode=True)
    norm = torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
    tree = variables["params"]
    x = norm(pool(conv(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), tree["conv1"], 2)))
    x = pool(norm(conv(conv(x, tree["conv2"]), tree["conv3"])))
    for place in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        block = tree["inception" + place]
        assert block["branch3_1"]["conv"]["kernel"].shape[:2] == (5, 5)
        side = torch.nn.functional.max_pool2d(x, 3, 1, 1)
        x = torch.cat(
            [
                conv(x, block["branch1"]),
                conv(conv(x, block["branch2_0"]), block["branch2_1"]),
                conv(conv(x, block["branch3_0"]), block["branch3_1"]),
                conv(side, block["branch4_1"]),
            ],
            1,
        )
        x = pool(x) if place in ("3b", "4e") else x
    assert error(jax.jit(ours.apply)(variables, images), x.mean((2, 3)).numpy()) < TOLERANCE


@pytest.mark.parametrize("size", [3, 4, 5, 6, 13])
def test_pools_and_response_norm(size):
    x = np.random.default_rng(size).normal(size=(2, size, size + 1, 7)).astype(np.float32) * 30
    there = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())

    def back(y):
        return y.numpy().transpose(0, 2, 3, 1)

    for window in (2, 3):
        pooled = torch.nn.functional.max_pool2d(there, window, 2, ceil_mode=True)
        np.testing.assert_array_equal(max_pool(jnp.asarray(x), window), back(pooled))
    mean = torch.nn.functional.adaptive_avg_pool2d(there, 6)
    assert error(adaptive_mean(jnp.asarray(x), 6), back(mean)) < 1e-6
    normed = torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)(there)
    assert error(local_response_norm(jnp.asarray(x)), back(normed)) < 1e-6


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_checkpoints(zipped, wrapped, tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "turned": base.T,
        "strided": base[1:, ::2],
        "whole": base,
        "spread": torch.ones(1).expand(3, 2),
        "none": torch.zeros(0, 3),
        "number": torch.tensor(7),
        "parameter": torch.nn.Parameter(base[0]),
        **{
            str(dtype): (base / 3).to(dtype)
            for dtype in (
                torch.float16,
                torch.bfloat16,
                torch.float64,
                torch.uint8,
                torch.int8,
                torch.int16,
            )
        },
        **{str(dtype): base.to(dtype) for dtype in (torch.int32, torch.int64, torch.bool)},
    }
    tree = {"epoch": 3, wrapped: tensors} if wrapped else tensors
    path = tmp_path / "x.pt"
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        half = tensor.dtype in (torch.float16, torch.bfloat16)
        expected = (tensor.float() if half else tensor).detach().numpy()
        assert found[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(found[name], expected, name)
