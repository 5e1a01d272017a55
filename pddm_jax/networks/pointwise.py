"""The 1 x 1 convolution as a matrix product, with a gradient that is fast on a CPU too.

For the gradient of the kernel of a convolution, the CPU backend of XLA copies the whole map into another
layout, which takes longer than the product itself. Timings are in docs/performance.md.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float


@jax.custom_vjp
def _product(x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]) -> Float[Array, "b h w d"]:
    return x @ kernel


def _sum_of_products(
    first: Float[Array, "b h w m"], second: Float[Array, "b h w n"]
) -> Float[Array, "m n"]:
    return jax.lax.dot_general(first, second, (((0, 1, 2), (0, 1, 2)), ((), ())))


def _backward(kept: tuple[Array, Array], gradient: Float[Array, "b h w d"]) -> tuple[Array, Array]:
    x, kernel = kept
    # XLA's CPU backend transposes the first factor. JAX's own rule puts the gradient there, which is wider
    # where a layer widens.
    if x.shape[-1] <= gradient.shape[-1]:
        kernel_gradient = _sum_of_products(x, gradient)
    else:
        kernel_gradient = _sum_of_products(gradient, x).T
    return (gradient @ kernel.T).astype(x.dtype), kernel_gradient.astype(kernel.dtype)


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _backward)


class PointwiseConv(nn.Module):
    """The channels of each pixel times a matrix; the parameter is `kernel` [1, 1, c, d], as in `nn.Conv`.

    It supports reverse-mode gradients.

    Attributes:
        channels: d, the channels of the result.
        stride: distance of the rows, and of the columns, that are kept.
        use_bias: whether a parameter `bias` [d] is added.
    """

    channels: int
    stride: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        """A map [b, ceil(h / stride), ceil(w / stride), d]."""
        shape = (1, 1, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x = _product(x[:, :: self.stride, :: self.stride], kernel[0, 0])
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.channels,))
        return x
