"""The 1 x 1 convolution as the matrix product that it is, whose gradients are fast on a CPU too.

For the gradient of a convolution's kernel XLA's CPU backend lays the whole map out anew, which takes longer
than the product itself. Figures are in docs/performance.md.
"""

import flax.linen as nn
from jaxtyping import Array, Float


class PointwiseConv(nn.Module):
    """Each place of a map times a matrix; its parameter is `kernel` [1, 1, c, d], as of `nn.Conv`.

    Attributes:
        channels: d, of the result.
        stride: of rows and of columns, every how-manyth is kept.
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
        x = x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
        if self.use_bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.channels,))
        return x
