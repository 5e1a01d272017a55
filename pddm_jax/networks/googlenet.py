"""GoogLeNet (Szegedy et al., https://arxiv.org/abs/1409.4842), with or without BatchNorm, without heads.

With BatchNorm it has the layers and names of torchvision, and takes its weights: the third branch has a
3 x 3 convolution in place of the 5 x 5 of the paper. Without BatchNorm it is the network of the paper:
convolutions with bias, 5 x 5, and local response normalization.

BatchNorm: epsilon 1e-3; running statistics keep 0.9 of their value at each step, which PyTorch calls
momentum 0.1, and the running variance is the biased one (PyTorch: times n / (n - 1)).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from pddm_jax.networks.pointwise import PointwiseConv

MEAN = (127.5, 127.5, 127.5)
"""Mean of the bytes: the weights of torchvision expect (x - 0.5) / 0.5 for values of 0 to 1, which its
`transform_input` makes of images that are normalized by the mean and deviation of ImageNet."""
STD = (127.5, 127.5, 127.5)
"""Standard deviation, likewise."""

# Channels (table 1 of the paper): 1 x 1; reduction before 3 x 3, 3 x 3; before 5 x 5, 5 x 5; after pooling.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b i j c"]:
    """Max pooling of `size` x `size` windows, stride 2; the last window may extend over the edge."""
    padding = [(0, max(size - n, -(n - size) % 2)) for n in x.shape[1:3]]
    return nn.max_pool(x, (size, size), (2, 2), padding)


def local_response_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """`x / (1 + 1e-4 m) ** 0.75`, m the mean square of five adjacent channels (0 beyond the ends)."""
    squares = jnp.pad(x * x, ((0, 0), (0, 0), (0, 0), (2, 2)))
    mean = sum(squares[..., n : n + x.shape[-1]] for n in range(5)) / 5
    return x / (1 + 1e-4 * mean) ** 0.75


class BasicConv(nn.Module):
    """Convolution, BatchNorm or bias, ReLU."""

    channels: int
    size: int
    batch_norm: bool
    stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        """A map with `channels` channels."""
        size, bias = (self.size, self.size), not self.batch_norm
        if self.size == 1:
            x = PointwiseConv(self.channels, use_bias=bias, name="conv")(x)
        else:
            strides = (self.stride, self.stride)
            x = nn.Conv(self.channels, size, strides, padding=self.size // 2, use_bias=bias, name="conv")(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3, name="bn")(x)
        return nn.relu(x)


class Inception(nn.Module):
    """Four parallel branches, concatenated by channels."""

    widths: tuple[int, int, int, int, int, int]
    batch_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        """A map of the same size."""

        def conv(width: int, size: int, name: str, x: Array) -> Array:
            return BasicConv(self.widths[width], size, self.batch_norm, name=name)(x, train)

        branches = (
            conv(0, 1, "branch1", x),
            conv(2, 3, "branch2_1", conv(1, 1, "branch2_0", x)),
            conv(4, 3 if self.batch_norm else 5, "branch3_1", conv(3, 1, "branch3_0", x)),
            conv(5, 1, "branch4_1", nn.max_pool(x, (3, 3), padding="SAME")),
        )
        return jnp.concatenate(branches, -1)


class GoogLeNet(nn.Module):
    """Normalized images to 1,024 features, the mean of the last map (pool5)."""

    batch_norm: bool = True
    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b 1024"]:
        """Features [b, 1024]; with `train`, BatchNorm uses the statistics of this batch."""

        def normalized(x: Array) -> Array:
            return x if self.batch_norm else local_response_norm(x)

        x = BasicConv(64, 7, self.batch_norm, stride=2, name="conv1")(images, train)
        x = normalized(max_pool(x, 3))
        x = BasicConv(64, 1, self.batch_norm, name="conv2")(x, train)
        x = normalized(BasicConv(192, 3, self.batch_norm, name="conv3")(x, train))
        x = max_pool(x, 3)
        inception = nn.remat(Inception, static_argnums=(2,)) if self.remat else Inception
        for block, widths in INCEPTIONS.items():
            x = inception(widths, self.batch_norm, name=f"inception{block}")(x, train)
            if block == "3b":
                x = max_pool(x, 3)
            if block == "4e":
                x = max_pool(x, 2 if self.batch_norm else 3)
        return x.mean((1, 2))
