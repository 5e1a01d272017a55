"""ResNet-50 (He et al., https://arxiv.org/abs/1512.03385), with the layers and names of torchvision.

This is version 1.5: the 3 x 3 convolution of a block has the stride, not the 1 x 1 convolution before it.

BatchNorm: epsilon 1e-5; running statistics keep 0.9 of their value at each step, which PyTorch calls
momentum 0.1, and the running variance is the biased one (PyTorch: times n / (n - 1)).
"""

import flax.linen as nn
from jaxtyping import Array, Float

from pddm_jax.networks.pointwise import PointwiseConv

MEAN = (123.675, 116.28, 103.53)
"""Mean of the bytes of ImageNet (red, green, blue), as torchvision: (0.485, 0.456, 0.406) x 255."""
STD = (58.395, 57.12, 57.375)
"""Standard deviation, likewise: (0.229, 0.224, 0.225) x 255."""

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Blocks, and their inner width, of each stage."""


def _conv(channels: int, size: int, stride: int, name: str) -> nn.Module:
    if size == 1:
        return PointwiseConv(channels, stride, name=name)
    return nn.Conv(channels, (size, size), (stride, stride), padding=size // 2, use_bias=False, name=name)


def _norm(train: bool, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the input, which is projected to their shape."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b i j d"]:
        """A map with 4 `width` channels."""
        y = nn.relu(_norm(train, "bn1")(_conv(self.width, 1, 1, "conv1")(x)))
        y = nn.relu(_norm(train, "bn2")(_conv(self.width, 3, self.stride, "conv2")(y)))
        y = _norm(train, "bn3")(_conv(4 * self.width, 1, 1, "conv3")(y))
        if y.shape != x.shape:
            x = _norm(train, "downsample_1")(_conv(4 * self.width, 1, self.stride, "downsample_0")(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """Normalized images to 2,048 features, the mean of the last map."""

    remat: bool = False

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b 2048"]:
        """Features [b, 2048]; with `train`, BatchNorm uses the statistics of this batch."""
        x = nn.relu(_norm(train, "bn1")(_conv(64, 7, 2, "conv1")(images)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block = nn.remat(Bottleneck, static_argnums=(2,)) if self.remat else Bottleneck
        for stage, (blocks, width) in enumerate(STAGES, 1):
            for n in range(blocks):
                stride = 2 if stage > 1 and n == 0 else 1
                x = block(width, stride, name=f"layer{stage}_{n}")(x, train)
        return x.mean((1, 2))
