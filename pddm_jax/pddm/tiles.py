"""Scores of tiles of the pair matrix: t images against t others.

Two facts make a pair cost 2dh + 4hc operations instead of 4dh + 4hc, over half of the pairs: the
mean's branch is linear before its ReLU, so each image's share of it is computed once; and S is
symmetric, so only the tiles on and above the diagonal are work.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.numerics import all_finite, inverse_sqrt
from pddm_jax.sharding import kind_of, mesh_of
from pddm_jax.types import AnyArray, Params

TILE = 8
"""Images along one side of a tile; small, so that little is computed below the diagonal."""

STEP = 2**20
"""Floats that the tiles scored together hold in all layers: few enough for a core's caches."""

GPU_STEP = 2**25
"""The same on a GPU: enough to fill it, at 140 to 230 MB on an H200 (docs/performance.md)."""


class Tiles(NamedTuple):
    """Images cut into tiles of t rows, the last one padded with zeros."""

    x: Float[Array, "n t d"]
    mean: Float[Array, "n t h"]  # x W_v / 2 + b_v / 2: the image's share of the mean's branch


def _nan_where_not_finite(params: Params, x: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """0 for each image; NaN where it, or a parameter, is not finite."""
    fine = jnp.isfinite(x).all(axis=1, keepdims=True) & all_finite(params)
    return jnp.where(fine, 0, jnp.nan).astype(jnp.float32)


def _matmul(x: Array, w: Array) -> Array:
    """The product x w, with w brought to the type of x, summed in float32."""
    return jnp.matmul(x, w.astype(x.dtype), precision="highest", preferred_element_type=jnp.float32)


def cut_tiles(params: Params, x: Float[Array, "n d"], dtype: DTypeLike, tile: int = TILE) -> Tiles:
    """Images as tiles of `tile` rows; products are of type `dtype`."""
    count = -(-len(x) // tile)
    x = jnp.pad(x, ((0, count * tile - len(x)), (0, 0)))
    mean = (_matmul(x.astype(dtype), params["mean"]["kernel"]) + params["mean"]["bias"]) / 2
    # All scores of an image go through its share of the mean, in every form; a ReLU could hide an infinity.
    mean += _nan_where_not_finite(params, x)
    return Tiles(x.reshape(count, tile, -1), mean.reshape(count, tile, -1))


def score_tiles(
    params: Params,
    rows: Tiles,
    columns: Tiles,
    r: Int[Array, " g"],
    c: Int[Array, " g"],
    dtype: DTypeLike,
) -> Float[Array, "g t t"]:
    """Scores of row tile r against column tile c, for a group of tiles."""

    def add(images: Array, others: Array) -> Float[Array, "p d"]:
        pairs = images[r][:, :, None] + others[c][:, None]
        return pairs.reshape(-1, pairs.shape[-1])

    def branch(z: Float[Array, "p h"]) -> Float[Array, "p h"]:
        z = jax.nn.relu(z)
        # As a product with ones, XLA's CPU backend vectorises this sum; as a reduction it does not.
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


def symmetric(
    scores: Float[Array, "g t t"], r: Int[Array, " g"], c: Int[Array, " g"]
) -> Float[Array, "g t t"]:
    """Scores of tiles with r <= c; one on the diagonal becomes symmetric to the bit."""
    mirrored = jnp.triu(scores) + jnp.triu(scores, 1).swapaxes(1, 2)
    return jnp.where((r == c)[:, None, None], mirrored, scores)


def unit_widths(params: Params) -> tuple[int, int, int]:
    """Widths of the embeddings, of the branches and of the joint layer."""
    d, hidden = params["difference"]["kernel"].shape
    return d, hidden, params["joint"]["kernel"].shape[1]


def tiles_per_step(params: Params, x: Float[Array, "n d"], tiles: int, most: int | None = None) -> int:
    """How many of so many tiles a device of x scores at once: `most`, or what the plain form can."""
    d, hidden, joint = unit_widths(params)
    on_a_gpu, mesh = kind_of(x).startswith("NVIDIA"), mesh_of(x)
    floats = GPU_STEP if on_a_gpu else STEP
    most = most or max(1, floats // (TILE**2 * (d + 2 * hidden + joint)))
    # A GPU's steps are few: more of them, where several devices share them out.
    return min(most, -(-tiles // mesh.size)) if on_a_gpu and mesh else most


def steps_of_tiles(r: Int[AnyArray, " n"], c: Int[AnyArray, " n"], most: int) -> Int[Array, "steps 2 g"]:
    """Tile indices in even steps of at most so many; the last is filled up with its last tile again."""
    count = -(-len(r) // most)
    index = np.minimum(np.arange(len(r) + -len(r) % count), len(r) - 1).reshape(count, 1, -1)
    return jnp.concatenate([r[index], c[index]], axis=1, dtype=jnp.int32)


scan = partial(jax.lax.scan, unroll=2)  # two steps in flight hide what each cannot spread over cores
