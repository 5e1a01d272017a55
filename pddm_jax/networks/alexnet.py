"""AlexNet (Krizhevsky, https://arxiv.org/abs/1404.5997), laid out and named as in torchvision."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

MEAN = (123.675, 116.28, 103.53)
"""Of bytes, red, green, blue: ImageNet's, which torchvision's weights expect (0.485, 0.456, 0.406)."""
STD = (58.395, 57.12, 57.375)
"""As `MEAN` (0.229, 0.224, 0.225)."""

SMALLEST = 63
"""Pixels a side; of less, the last pooling leaves nothing."""


def adaptive_mean(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b {size} {size} c"]:
    """Means of `size` x `size` parts that cover the map, as `torch.nn.AdaptiveAvgPool2d`.

    Part i holds rows floor(i h / size) to ceil((i + 1) h / size): parts overlap where size does not divide
    the map, and repeat where it is smaller.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        parts = [(i * n // size, -((i + 1) * -n // size)) for i in range(size)]
        x = jnp.stack([jnp.take(x, jnp.arange(*part), axis).mean(axis) for part in parts], axis)
    return x


class AlexNet(nn.Module):
    """Normalised images of at least 63 pixels to 4,096 features: the output of fc7, after its ReLU.

    torchvision's dropout before fc6 and fc7 is left out: `train` changes nothing here, and no
    random key is needed.
    """

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"], train: bool = False) -> Float[Array, "b 4096"]:
        """Features [b, 4096].

        Raises:
            ValueError: the images are below 63 pixels.
        """
        del train
        if min(images.shape[1:3]) < SMALLEST:
            raise ValueError(f"AlexNet needs images of at least {SMALLEST} pixels, got {images.shape[1:3]}")
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
