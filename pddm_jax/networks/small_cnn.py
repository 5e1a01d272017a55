"""A small convolutional network for images of about 32 pixels, sized for a CPU."""

import flax.linen as nn
from jaxtyping import Array, Float


class SmallCNN(nn.Module):
    """Images to features: stages of two 3 x 3 convolutions, the first of them with stride 2.

    Each is followed by group normalization and SiLU. The last map is flattened, so the features keep the
    positions of strokes. SiLU is smooth: at the kink of a ReLU, a rounding error turns the whole flat
    background of an image on or off, and its share of the gradient with it.
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
