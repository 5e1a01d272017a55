"""The pointwise convolution and its gradients against NumPy and Flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pddm_jax.networks.pointwise import PointwiseConv


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
