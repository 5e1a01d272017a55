"""A small convolutional network for images of about 32 pixels, sized for a CPU."""

import flax.linen as nn
from jaxtyping import Array, Float


class SmallCNN(nn.Module):
    """Images to features: stages of two 3 x 3 convolutions, the first of them with stride 2.

    Each is followed by group normalisation and SiLU; the last map is laid out flat, so that the
    features still tell where a stroke is. SiLU is smooth: at the kink of a ReLU the whole flat
    background of an image turns on or off by a rounding, and so does its share of the gradient.
    """

    widths: tuple[int, ...] = (32, 64, 64)

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b f"]:
        """Features [b, f] of images with values of about 0 to 1."""
        x = images
        for width in self.widths:
            for stride in (2, 1):
                x = nn.Conv(width, (3, 3), (stride, stride), use_bias=False)(x)
                x = nn.silu(nn.GroupNorm(num_groups=8)(x))
        return x.reshape(len(x), -1)
