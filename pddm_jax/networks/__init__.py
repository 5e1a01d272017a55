"""Networks by name: images to features, and the head that makes features an embedding."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, UInt8

from pddm_jax.checks import check_choice
from pddm_jax.networks import alexnet, efficientnet_lite, googlenet, resnet
from pddm_jax.networks.alexnet import AlexNet
from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.googlenet import GoogLeNet
from pddm_jax.networks.resnet import ResNet50
from pddm_jax.networks.small_cnn import SmallCNN
from pddm_jax.numerics import l2_normalize
from pddm_jax.sharding import merge_microbatches, split_microbatches
from pddm_jax.types import DTYPES


class Backbone(NamedTuple):
    """A network without a classifier, and the bytes that it takes as mean 0 and deviation 1."""

    make: Callable[[], nn.Module]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)


NETWORKS = {
    "alexnet": Backbone(AlexNet, alexnet.MEAN, alexnet.STD),
    "efficientnet_lite0": Backbone(EfficientNetLite0, efficientnet_lite.MEAN, efficientnet_lite.STD),
    "googlenet": Backbone(GoogLeNet, googlenet.MEAN, googlenet.STD),
    "googlenet_plain": Backbone(partial(GoogLeNet, batch_norm=False), googlenet.MEAN, googlenet.STD),
    "resnet50": Backbone(ResNet50, resnet.MEAN, resnet.STD),
    "small_cnn": Backbone(SmallCNN),
}


class EmbeddingNetwork(nn.Module):
    """Images of bytes to embeddings of unit length: backbone, linear layer, batch normalisation.

    The batch normalisation, without scale or bias, keeps a batch's embeddings spread around the
    origin: without it hard mining draws all of them into one point (see docs/results.md).

    Attributes:
        backbone: any module (images [b, h, w, c], train) -> features [b, f].
        embedding_dim: width of the embedding; 0 = the features themselves, without the two layers.
        mean: of the bytes of an image, per channel; a grey image is given as many channels.
        std: their deviation.
        freeze_batch_stats: whether the backbone's own batch normalisations keep their statistics.
        dtype: what the backbone computes in, "float32" or "bfloat16"; its parameters, its statistics, and
            all that comes after it stay float32.
        microbatches: parts of a batch that the backbone takes one after another in training.
            Its own batch normalisations see a part, and their running statistics go on from part to part;
            all that comes after the backbone sees the whole batch.
    """

    backbone: nn.Module
    embedding_dim: int
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    freeze_batch_stats: bool = False
    dtype: str = "float32"
    microbatches: int = 1

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w c"], train: bool = False) -> Float[Array, "b d"]:
        """Embeddings [b, d]; with `train`, by the statistics of this batch.

        Raises:
            ValueError: in training, the batch does not divide over its devices, times microbatches.
        """
        whole = not train or self.microbatches == 1 or self.is_initializing()
        features = self.features(images, train) if whole else self.features_of_parts(images)
        if not self.embedding_dim:
            return l2_normalize(features)
        x = nn.Dense(self.embedding_dim, use_bias=False, name="embedding")(features)
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, use_bias=False, use_scale=False, name="centre"
        )(x)
        return l2_normalize(x)

    def features(self, images: UInt8[Array, "b h w c"], train: bool) -> Float[Array, "b f"]:
        """Of the backbone, which sees its parameters and the images in `dtype`."""
        x = (images.astype(jnp.float32) - jnp.array(self.mean)) / jnp.array(self.std)
        train = train and not self.freeze_batch_stats
        if self.dtype == "float32" or self.is_initializing():
            return self.backbone(x, train=train)

        def rounded(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x.astype(self.dtype), tree)

        backbone = nn.map_variables(lambda backbone, x: backbone(x, train=train), "params", rounded)
        return backbone(self.backbone, rounded(x)).astype(jnp.float32)

    def features_of_parts(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b f"]:
        """Of the backbone in training, one part of the batch after another; once more for the gradient."""

        def of_part(
            network: "EmbeddingNetwork", _: None, part: UInt8[Array, "m h w c"]
        ) -> tuple[None, Float[Array, "m f"]]:
            return None, network.features(part, train=True)

        # The second time is in another loop, so that XLA cannot take it for the first and keep that.
        again = nn.remat(of_part, prevent_cse=False)
        scan = nn.scan(again, variable_broadcast="params", variable_carry="batch_stats")
        _, features = scan(self, None, split_microbatches(images, self.microbatches))
        return merge_microbatches(features, images)


def make_network(
    name: str,
    embedding_dim: int,
    freeze_batch_stats: bool = False,
    dtype: str = "float32",
    remat: bool = False,
    microbatches: int = 1,
) -> EmbeddingNetwork:
    """The network of a name in `NETWORKS`, with an embedding of the given width; see `EmbeddingNetwork`.

    With `remat` the backbone keeps for its gradient only what goes into each of its blocks, and computes
    the inside of a block once more when its turn comes. With `microbatches` above 1 it keeps the images
    alone, and computes a part of the batch once more when its turn comes.

    Raises:
        ValueError: no network has this name, embedding_dim is below 0, dtype is not one of the two, the
            network has no blocks to be rematerialised, or microbatches is not positive.
    """
    check_choice("network.name", name, NETWORKS)
    check_choice("network.dtype", dtype, DTYPES)
    if embedding_dim < 0:
        raise ValueError(f"network.embedding_dim must not be below 0, got {embedding_dim}")
    if microbatches < 1:
        raise ValueError(f"network.microbatches must be a positive number, got {microbatches}")
    backbone = NETWORKS[name]
    made = backbone.make()
    if remat:
        of_blocks = [name for name, of in NETWORKS.items() if hasattr(of.make(), "remat")]
        check_choice("network.name, with network.remat,", name, of_blocks)
        made = made.clone(remat=True)
    return EmbeddingNetwork(
        made, embedding_dim, backbone.mean, backbone.std, freeze_batch_stats, dtype, microbatches
    )
