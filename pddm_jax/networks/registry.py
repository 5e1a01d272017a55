"""Networks by name: the backbones, and the mean and standard deviation that each expects of its bytes."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from pddm_jax.checks import check_choice
from pddm_jax.networks import alexnet, efficientnet_lite, googlenet, resnet
from pddm_jax.networks.alexnet import AlexNet
from pddm_jax.networks.efficientnet_lite import EfficientNetLite0
from pddm_jax.networks.embedding import EmbeddingNetwork, check_fields
from pddm_jax.networks.googlenet import GoogLeNet
from pddm_jax.networks.resnet import ResNet50
from pddm_jax.networks.small_cnn import SmallCNN


class Backbone(NamedTuple):
    """A network without a classifier, and the mean and standard deviation of the bytes that it expects."""

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


def make_network(
    name: str,
    embedding_dim: int,
    freeze_batch_stats: bool = False,
    dtype: str = "float32",
    remat: bool = False,
    microbatches: int = 1,
) -> EmbeddingNetwork:
    """The network of a name in `NETWORKS`, with an embedding of the given width; see `EmbeddingNetwork`.

    With `remat` the backbone keeps for its gradient only the input of each of its blocks, and computes the
    inside of a block again in the backward pass. With `microbatches` above 1 it keeps the images alone, and
    computes a microbatch again in the backward pass.

    Raises:
        ValueError: no network has this name, embedding_dim is below 0, dtype is not one of the two, the
            network has no blocks to be rematerialized, or microbatches is not positive.
    """
    check_choice("network.name", name, NETWORKS)
    check_fields(embedding_dim, dtype, microbatches, group="network.")
    entry = NETWORKS[name]
    backbone = entry.make()
    if remat:
        with_blocks = [name for name, other in NETWORKS.items() if hasattr(other.make(), "remat")]
        check_choice("network.name, with network.remat,", name, with_blocks)
        backbone = backbone.clone(remat=True)
    return EmbeddingNetwork(
        backbone, embedding_dim, entry.mean, entry.std, freeze_batch_stats, dtype, microbatches
    )
