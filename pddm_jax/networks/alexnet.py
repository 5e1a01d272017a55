"""AlexNet (Krizhevsky, https://arxiv.org/abs/1404.5997), with the layers and names of torchvision."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

MEAN = (123.675, 116.28, 103.53)
"""Mean of the bytes of ImageNet (red, green, blue), as torchvision: (0.485, 0.456, 0.406) x 255."""
STD = (58.395, 57.12, 57.375)
"""Standard deviation, likewise: (0.229, 0.224, 0.225) x 255."""

MIN_SIZE = 63
"""Pixels of a side; for smaller images the last pooling returns an empty map."""


def adaptive_mean(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b {size} {size} c"]:
    """Adaptive average pooling to `size` x `size`, as `torch.nn.AdaptiveAvgPool2d`.

    Window i holds rows floor(i h / size) to ceil((i + 1) h / size): windows overlap where size does not
    divide the map, and repeat where the map is smaller.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -((i + 1) * -n // size)) for i in range(size)]
        x = jnp.stack([jnp.take(x, jnp.arange(*window), axis).mean(axis) for window in windows], axis)
    return x


class AlexNet(nn.Module):
    """Normalized images of at least 63 x 63 pixels to 4,096 features: the output of fc7, after its ReLU.

    The dropout of torchvision before fc6 and fc7 is omitted: `train` has no effect, and no random key is
    needed.
    """

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b 4096"]:
        """Features [b, 4096].

        Raises:
            ValueError: a side of the images is below 63 pixels.
        """
        del train
        if min(images.shape[1:3]) < MIN_SIZE:
            raise ValueError(f"AlexNet needs images of at least {MIN_SIZE} pixels, got {images.shape[1:3]}")
        x = nn.relu(nn.Conv(64, (11, 11), (4, 4), padding=2, name="features_0")(images))
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = nn.relu(nn.Conv(192, (5, 5), padding=2, name="features_3")(x))
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = nn.relu(nn.Conv(384, (3, 3), padding=1, name="features_6")(x))
        x = nn.relu(nn.Conv(256, (3, 3), padding=1, name="features_8")(x))
        x = nn.relu(nn.Conv(256, (3, 3), padding=1, name="features_10")(x))
        x = adaptive_mean(nn.max_pool(x, (3, 3), (2, 2)), 6)
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # channels first, as the published fc6 takes them
        x = nn.relu(nn.Dense(4096, name="classifier_1")(x))
        return nn.relu(nn.Dense(4096, name="classifier_4")(x))
