"""Networks by name: images to features, and the head that makes features an embedding."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from pddm_jax.checks import check_choice
from pddm_jax.networks.small_cnn import SmallCNN
from pddm_jax.pairwise import l2_normalize

NETWORKS = {"small_cnn": SmallCNN}


class EmbeddingNetwork(nn.Module):
    """Images of bytes to embeddings of unit length: backbone, linear layer, batch normalisation.

    The batch normalisation, without scale or bias, keeps a batch's embeddings spread around the
    origin: without it hard mining draws all of them into one point (see docs/results.md).
    """

    backbone: nn.Module
    embedding_dim: int

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w c"], train: bool = False) -> Float[Array, "b d"]:
        """Embeddings [b, d]; with `train`, by the statistics of this batch."""
        features = self.backbone(images.astype(jnp.float32) / 255, train=train)
        x = nn.Dense(self.embedding_dim, use_bias=False, name="embedding")(features)
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, use_bias=False, use_scale=False, name="centre"
        )(x)
        return l2_normalize(x)


def make_network(name: str, embedding_dim: int) -> EmbeddingNetwork:
    """The network of a name in `NETWORKS`, with an embedding of the given width.

    Raises:
        ValueError: no network has this name, or embedding_dim is below 1.
    """
    check_choice("network.name", name, NETWORKS)
    if embedding_dim < 1:
        raise ValueError(f"network.embedding_dim must be at least 1, got {embedding_dim}")
    return EmbeddingNetwork(NETWORKS[name](), embedding_dim)
