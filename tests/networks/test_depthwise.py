"""The depthwise convolution and its gradients against loops and XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from pddm_jax.networks.depthwise import DepthwiseConv, depthwise_conv


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
