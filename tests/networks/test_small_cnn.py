"""The small convolutional network against loops."""

import jax
import numpy as np

from pddm_jax.networks.small_cnn import SmallCNN


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
