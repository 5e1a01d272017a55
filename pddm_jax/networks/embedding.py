"""Embedding networks: any backbone, a linear layer, batch normalization, and scaling to unit length."""

import inspect
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from pddm_jax.checks import as_count, check_choice
from pddm_jax.numerics import l2_normalize
from pddm_jax.sharding import merge_microbatches, split_microbatches
from pddm_jax.types import DTYPES


class EmbeddingNetwork(nn.Module):
    """Images of bytes to embeddings of unit length: backbone, linear layer, batch normalization.

    The batch normalization, without scale or bias, keeps the embeddings of a batch spread around the
    origin: without it hard mining draws all of them into one point (see docs/results.md).

    Attributes:
        backbone: a module from normalized images [b, h, w, c] to features [b, f]; see `embedding_network`.
        embedding_dim: width of the embedding; 0 = the features themselves, without the two layers.
        mean: mean of the bytes of an image, by channel. A gray image is repeated for each of its values.
        std: standard deviation of the bytes, likewise.
        freeze_batch_stats: whether the batch normalizations of the backbone keep their statistics.
        dtype: dtype of the backbone's computation, "float32" or "bfloat16"; its parameters, its statistics,
            and everything after it stay float32.
        microbatches: number of parts of a training batch that the backbone takes one after another.
            Its own batch normalizations see one part, and their running statistics go on from part to part;
            everything after the backbone sees the whole batch.
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
        """Embeddings [b, d]; with `train`, normalized by the statistics of this batch.

        Raises:
            ValueError: in training, the batch does not divide over its devices, times microbatches; the
                backbone does not return a matrix of features; or the images have other channels than mean
                and std.
        """
        whole = not train or self.microbatches == 1 or self.is_initializing()
        features = self.features(images, train) if whole else self.microbatch_features(images)
        if not self.embedding_dim:
            return l2_normalize(features)
        x = nn.Dense(self.embedding_dim, use_bias=False, name="embedding")(features)
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, use_bias=False, use_scale=False, name="centre"
        )(x)
        return l2_normalize(x)

    def features(self, images: UInt8[Array, "b h w c"], train: bool) -> Float[Array, "b f"]:
        """The features of the backbone, which gets its parameters and the images in `dtype`."""
        channels, values = images.shape[-1], max(len(self.mean), len(self.std))
        if 1 not in (channels, values) and channels != values:
            raise ValueError(f"images must have {values} channels, as mean and std, or 1, got {channels}")
        x = (images.astype(jnp.float32) - jnp.array(self.mean)) / jnp.array(self.std)
        train = train and not self.freeze_batch_stats
        if self.dtype == "float32" or self.is_initializing():
            return _apply_backbone(self.backbone, x, train)

        def cast(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: x.astype(self.dtype), tree)

        apply = nn.map_variables(lambda backbone, x: _apply_backbone(backbone, x, train), "params", cast)
        return apply(self.backbone, cast(x))

    def microbatch_features(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b f"]:
        """The features in training, one microbatch after another; computed again for the gradient."""

        def step(
            network: "EmbeddingNetwork", _: None, part: UInt8[Array, "m h w c"]
        ) -> tuple[None, Float[Array, "m f"]]:
            return None, network.features(part, train=True)

        # The recomputation is in another loop, so XLA cannot merge it with the first and keep its results.
        again = nn.remat(step, prevent_cse=False)
        scan = nn.scan(again, variable_broadcast="params", variable_carry="batch_stats")
        _, features = scan(self, None, split_microbatches(images, self.microbatches))
        return merge_microbatches(features, images)


def _apply_backbone(
    backbone: nn.Module, images: Float[Array, "b h w c"], train: bool
) -> Float[Array, "b f"]:
    """Features in float32; `train` is passed where the backbone has an argument of this name."""
    takes_train = "train" in inspect.signature(type(backbone).__call__).parameters
    features = backbone(images, train=train) if takes_train else backbone(images)
    if features.ndim != 2:
        raise ValueError(
            f"backbone must return features [b, f], got {list(features.shape)}: average or flatten them"
        )
    return features.astype(jnp.float32)


def embedding_network(
    backbone: nn.Module,
    embedding_dim: int = 64,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 255.0,
    dtype: str = "float32",
    freeze_batch_stats: bool = False,
    microbatches: int = 1,
) -> EmbeddingNetwork:
    """Wrap a Flax module as a network from images of uint8 [b, h, w, c] to unit-length embeddings [b, d].

        class Backbone(nn.Module):
            @nn.compact
            def __call__(self, images, train=False):           # float32 [b, h, w, c]
                x = nn.Conv(64, (3, 3), (2, 2), use_bias=False)(images)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
                return x.mean((1, 2))                          # features [b, f]

        network = embedding_network(Backbone(), embedding_dim=128)
        variables = network.init(key, images)
        embeddings = network.apply(variables, images)          # [b, 128]

    The backbone gets `(images - mean) / std`, by default values of 0 to 1, and the keyword argument `train`
    if its `__call__` has an argument of this name. It may keep batch statistics (`nn.BatchNorm`), but no
    other collection of variables, and must not draw random numbers (dropout): a training step depends only
    on its state and its batch. Its variables are under the name "backbone". Within such a module
    `nnx.bridge.ToLinen(Model, args=(...))(images, train=train)` is a Flax NNX module.

    Args:
        backbone: a module from images to features [b, f].
        embedding_dim: d, the width of the embedding; 0 = the features, scaled to unit length.
        mean: mean of the bytes of an image: a number, or one for each channel.
        std: standard deviation of the bytes, likewise.
        dtype: "float32" or "bfloat16": dtype of the images and parameters that the backbone gets.
        freeze_batch_stats: whether the backbone is always called with `train=False`.
        microbatches: number of parts of a training batch that the backbone takes one after another.

    Raises:
        ValueError: backbone is not a Flax module, or another argument is out of its range.
    """
    if not isinstance(backbone, nn.Module):
        found = backbone.__name__ if isinstance(backbone, type) else type(backbone).__name__
        hint = f": pass {found}()" if isinstance(backbone, type) else ""
        kind = "class" if isinstance(backbone, type) else "instance"
        raise ValueError(f"backbone must be a flax.linen.Module, got the {kind} {found}{hint}")
    check_fields(embedding_dim, dtype, microbatches)
    means, stds = _per_channel("mean", mean), _per_channel("std", std)
    if min(stds) <= 0:
        raise ValueError(f"std must be above 0 for every channel, got {std}")
    if len(means) != len(stds) and 1 not in (len(means), len(stds)):
        raise ValueError(f"mean and std must have one length, got {len(means)} and {len(stds)} channels")
    return EmbeddingNetwork(backbone, embedding_dim, means, stds, freeze_batch_stats, dtype, microbatches)


def check_fields(embedding_dim: int, dtype: str, microbatches: int, group: str = "") -> None:
    """Raise a ValueError that names the argument, after the group of a config if given ("network.")."""
    check_choice(f"{group}dtype", dtype, DTYPES)
    as_count(f"{group}embedding_dim", embedding_dim)
    as_count(f"{group}microbatches", microbatches, least=1)


def _per_channel(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    numbers = np.atleast_1d(np.asarray(values, np.float64))
    if numbers.ndim > 1 or not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be a finite number, or one for each channel, got {values}")
    return tuple(numbers.tolist())
