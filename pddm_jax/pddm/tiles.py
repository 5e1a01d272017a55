"""PDDM scores of tiles of the pair matrix: t images against t other images.

Two facts reduce a pair from 4dh + 4hc to 2dh + 4hc operations, over half of the pairs. The branch of the
mean is linear before its ReLU, so the share of each image is computed once. S is symmetric, so only the
tiles on and above the diagonal are computed.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.numerics import all_finite, inverse_sqrt
from pddm_jax.sharding import device_kind, mesh_of
from pddm_jax.types import AnyArray, Params

TILE = 8
"""Images along one side of a tile; small, so that little is computed below the diagonal."""

STEP = 2**20
"""Floats in all layers of the tiles that are scored together: they fit in the caches of a core."""

GPU_STEP = 2**25
"""The same on a GPU: enough to fill it, with 140 to 230 MB on an H200 (docs/performance.md)."""


class Tiles(NamedTuple):
    """Images cut into tiles of t rows, the last one padded with zeros."""

    x: Float[Array, "n t d"]
    mean: Float[Array, "n t h"]  # x W_v / 2 + b_v / 2: the share of the image in the branch of the mean


class TileIndex(NamedTuple):
    """Tiles of the pair matrix, each by the index of its row tile and of its column tile."""

    r: Int[Array, " g"]
    c: Int[Array, " g"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TiledBatch:
    """A batch to mine from, as every backend takes it.

    Attributes:
        params: parameters of the PDDM unit.
        tiles: the embeddings.
        classes: class codes of the embeddings.
        size: number of images, without those that pad the last tile.
        dtype: type of the matrix products.
    """

    params: Params
    tiles: Tiles
    classes: Int[Array, "n t"]
    size: int = field(metadata={"static": True})
    dtype: DTypeLike = field(metadata={"static": True})


class UnitWidths(NamedTuple):
    """Widths of the embeddings, of the branches and of the joint layer of a PDDM unit."""

    embedding: int
    hidden: int
    joint: int


def unit_widths(params: Params) -> UnitWidths:
    """The widths of a unit, read off its parameters."""
    embedding, hidden = params["difference"]["kernel"].shape
    return UnitWidths(embedding, hidden, params["joint"]["kernel"].shape[1])


def _nan_where_not_finite(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """0 for each image; NaN where the image or a parameter is not finite."""
    finite = jnp.isfinite(x).all(axis=1, keepdims=True) & all_finite(params)
    return jnp.where(finite, 0, jnp.nan).astype(jnp.float32)


def _matmul(x: Array, w: Array) -> Array:
    """The product x w, with w cast to the type of x, accumulated in float32."""
    return jnp.matmul(x, w.astype(x.dtype), precision="highest", preferred_element_type=jnp.float32)


def cut_tiles(params: Params, x: Float[Array, "n d"], dtype: DTypeLike, tile: int = TILE) -> Tiles:
    """Images as tiles of `tile` rows; products are of type `dtype`."""
    count = -(-len(x) // tile)
    x = jnp.pad(x, ((0, count * tile - len(x)), (0, 0)))
    mean = (_matmul(x.astype(dtype), params["mean"]["kernel"]) + params["mean"]["bias"]) / 2
    # In every backend the scores of an image depend on this. A ReLU could hide an infinity.
    mean += _nan_where_not_finite(params, x)
    return Tiles(x.reshape(count, tile, -1), mean.reshape(count, tile, -1))


def score_tiles(
    params: Params, rows: Tiles, columns: Tiles, index: TileIndex, *, dtype: DTypeLike
) -> Float[Array, "g t t"]:
    """Scores of row tile r against column tile c, for a group of tiles."""
    r, c = index

    def add(images: Array, others: Array) -> Float[Array, "p d"]:
        pairs = images[r][:, :, None] + others[c][:, None]
        return pairs.reshape(-1, pairs.shape[-1])

    def branch(z: Float[Array, "p h"]) -> Float[Array, "p h"]:
        z = jax.nn.relu(z)
        # XLA's CPU backend vectorizes this sum as a product with ones, but not as a reduction.
        squared = _matmul(jnp.square(z), jnp.ones((z.shape[-1], 1), z.dtype))
        return z * inverse_sqrt(squared)

    difference = _matmul(jnp.abs(add(rows.x, -columns.x)).astype(dtype), params["difference"]["kernel"])
    branches = jnp.concatenate(
        [
            branch(difference + params["difference"]["bias"]),
            branch(add(rows.mean, columns.mean)),
        ],
        axis=-1,
    )
    joint = _matmul(branches.astype(dtype), params["joint"]["kernel"]) + params["joint"]["bias"]
    scores = _matmul(jax.nn.relu(joint).astype(dtype), params["score"]["kernel"])
    return (scores + params["score"]["bias"]).reshape(len(r), rows.x.shape[1], -1)


def symmetric(scores: Float[Array, "g t t"], index: TileIndex) -> Float[Array, "g t t"]:
    """Scores of tiles with r <= c; those on the diagonal become symmetric to the bit."""
    mirrored = jnp.triu(scores) + jnp.triu(scores, 1).swapaxes(1, 2)
    return jnp.where((index.r == index.c)[:, None, None], mirrored, scores)


def tiles_per_step(params: Params, x: Float[Array, "n d"], tiles: int, at_most: int | None = None) -> int:
    """How many of `tiles` tiles a device of x scores at once: `at_most`, or what plain JAX is fast with."""
    on_a_gpu, mesh = device_kind(x).startswith("NVIDIA"), mesh_of(x)
    width, hidden, joint = unit_widths(params)
    floats = GPU_STEP if on_a_gpu else STEP
    at_most = at_most or max(1, floats // (TILE**2 * (width + 2 * hidden + joint)))
    # A GPU takes few steps. Several GPUs need at least one each.
    return min(at_most, -(-tiles // mesh.size)) if on_a_gpu and mesh else at_most


def steps_of_tiles(r: Int[AnyArray, " n"], c: Int[AnyArray, " n"], at_most: int) -> Int[Array, "steps 2 g"]:
    """Tile indices in steps of equal size, `at_most` tiles each; the last tile pads the last step."""
    count = -(-len(r) // at_most)
    index = np.minimum(np.arange(len(r) + -len(r) % count), len(r) - 1).reshape(count, 1, -1)
    return jnp.concatenate([r[index], c[index]], axis=1, dtype=jnp.int32)


scan = partial(jax.lax.scan, unroll=2)  # two steps in flight hide what each cannot spread over cores
