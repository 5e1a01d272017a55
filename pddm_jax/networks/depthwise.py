"""Depthwise convolution as a sum of shifted products on a CPU, as a grouped convolution elsewhere.

On a CPU, XLA's grouped convolution takes most of the time of a mobile network. XLA fuses the sum of shifted
products into one loop over the map; the gradient of the kernel goes over the maps row by row. GPU and TPU
use the grouped convolution of XLA. Timings are in docs/performance.md.
"""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after the rows, and before and after the columns."""

Map = Float[Array, "b h w c"]
Kernel = Float[Array, "k k 1 c"]


def _padded(x: Map, padding: Padding) -> Float[Array, "b n m c"]:
    """The map with its zeros, in memory: otherwise every product would test for the edge again."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))


def _shifts(x: Float[Array, "b n m c"], size: int, stride: int) -> list[Array]:
    """The part of a padded map that meets each tap of a kernel, row by row of the kernel."""
    rows, columns = (x.shape[axis] - size + 1 for axis in (1, 2))
    return [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]


def _shifted_products(x: Map, kernel: Kernel, stride: int, padding: Padding) -> Float[Array, "b i j c"]:
    taps = kernel.reshape(-1, kernel.shape[-1])
    shifts = _shifts(_padded(x, padding), len(kernel), stride)
    return sum(shift * tap for shift, tap in zip(shifts, taps, strict=True))


def _input_gradient(
    x: Map, kernel: Kernel, gradient: Float[Array, "b i j c"], stride: int, padding: Padding
) -> Map:
    """The rotated kernel over the gradient, which is dilated by the stride."""
    size = len(kernel)
    config = [(0, 0, 0)]
    for n, m, (low, _) in zip(x.shape[1:3], gradient.shape[1:3], padding, strict=True):
        config.append((size - 1 - low, n - 1 - (m - 1) * stride + low, stride - 1))
    dilated = lax.pad(gradient, jnp.zeros((), gradient.dtype), [*config, (0, 0, 0)])
    return _shifted_products(dilated, kernel[::-1, ::-1], 1, ((0, 0), (0, 0)))


def _kernel_gradient(
    x: Map, kernel: Kernel, gradient: Float[Array, "b i j c"], stride: int, padding: Padding
) -> Kernel:
    """A sum over the rows of all images, with one partial sum for each column until the end.

    So each step is a loop over [w, c], which XLA vectorizes; it does not vectorize sums over a whole map.
    The images of each device have a loop of their own: one loop over a sharded batch would gather it.
    """
    size, rows, x = len(kernel), gradient.shape[1], _padded(x, padding)
    shares = math.gcd(len(x), jax.device_count())

    def total(x: Float[Array, "n h w c"], gradient: Float[Array, "n i j c"]) -> Float[Array, "k k 1 c"]:
        def add_row(totals: list[Array], n: Array) -> tuple[list[Array], None]:
            image, row = jnp.divmod(n, rows)
            above = lax.dynamic_slice(x, (image, row * stride, 0, 0), (1, size, *x.shape[2:]))
            out = lax.dynamic_slice(gradient, (image, row, 0, 0), (1, 1, *gradient.shape[2:]))
            return [t + s * out for t, s in zip(totals, _shifts(above, size, stride), strict=True)], None

        zeros = [jnp.zeros((1, 1, *gradient.shape[2:]))] * size**2
        totals = lax.scan(add_row, zeros, jnp.arange(len(x) * rows))[0]
        return jnp.stack([total.sum((0, 1, 2)) for total in totals]).reshape(kernel.shape)

    x, gradient = (a.reshape(shares, -1, *a.shape[1:]) for a in (x, gradient))
    return jax.vmap(total)(x, gradient).sum(0).astype(kernel.dtype)


def _grouped(x: Map, kernel: Kernel, stride: int, padding: Padding) -> Float[Array, "b i j c"]:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_conv(x: Map, kernel: Kernel, stride: int, padding: Padding) -> Float[Array, "b i j c"]:
    """Each channel of a map [b, h, w, c] correlated with its own kernel [k, k, 1, c].

    `out[b, i, j, c] = sum over p, q of padded[b, stride i + p, stride j + q, c] kernel[p, q, 0, c]`,
    which is `lax.conv_general_dilated` with as many groups as channels. It supports reverse-mode gradients.
    """
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _shifted_products(x, kernel, stride, padding),
        default=lambda x, kernel: _grouped(x, kernel, stride, padding),
    )


def _forward(
    x: Map, kernel: Kernel, stride: int, padding: Padding
) -> tuple[Float[Array, "b i j c"], tuple[Map, Kernel]]:
    return depthwise_conv(x, kernel, stride, padding), (x, kernel)


def _backward(
    stride: int, padding: Padding, kept: tuple[Map, Kernel], gradient: Float[Array, "b i j c"]
) -> tuple[Map, Kernel]:
    def on_cpu(x: Map, kernel: Kernel, gradient: Array) -> tuple[Map, Kernel]:
        return (
            _input_gradient(x, kernel, gradient, stride, padding),
            _kernel_gradient(x, kernel, gradient, stride, padding),
        )

    def on_others(x: Map, kernel: Kernel, gradient: Array) -> tuple[Map, Kernel]:
        return jax.vjp(lambda x, kernel: _grouped(x, kernel, stride, padding), x, kernel)[1](gradient)

    return lax.platform_dependent(*kept, gradient, cpu=on_cpu, default=on_others)


depthwise_conv.defvjp(_forward, _backward)


class DepthwiseConv(nn.Module):
    """`depthwise_conv` with SAME padding and its parameter `kernel` [k, k, 1, c], without bias."""

    size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Map) -> Float[Array, "b i j c"]:
        """A map [b, ceil(h / stride), ceil(w / stride), c]."""
        shape = (self.size, self.size, 1, x.shape[-1])
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        strides = (self.stride, self.stride)
        (top, bottom), (left, right) = lax.padtype_to_pads(x.shape[1:3], shape[:2], strides, "SAME")
        padding = ((int(top), int(bottom)), (int(left), int(right)))
        return depthwise_conv(x, kernel, self.stride, padding)
