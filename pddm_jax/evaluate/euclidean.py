"""Exact Euclidean nearest neighbors: ordered as in float64, whatever the scale of the embeddings.

Distances are ranked in passes. The first computes |q|^2 + |g|^2 - 2 q.g in float32, relative to one image
of the gallery, and yields a few more candidates than k. Their distances are then computed from the
differences in float64. A bound on the rounding error of the first pass tells for which queries no other
image can come before the candidates. The remaining queries go through the next pass: the same in float64,
and finally all differences in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from pddm_jax.evaluate.float_range import in_range, is_exact, largest_of
from pddm_jax.evaluate.top_k import Ranking, blocks_of, is_deep, ordered, top_k
from pddm_jax.numerics import squared_distances
from pddm_jax.types import AnyArray

MAX_COORDINATES = 2**24
"""Coordinates of candidates whose distances are computed together."""

CPU_MAX_COORDINATES = 2**18
"""The same on a CPU: few enough for its caches."""

SHARDED = PartitionSpec("queries")

Scores = Float[Array, "q k"]
Indices = Int[Array, "q k"]


def nearest_by_distance(
    queries: Float[AnyArray, "q d"], gallery: Float[AnyArray, "g d"], k: int, approx: bool = False
) -> tuple[Scores, Indices]:
    """The k nearest by Euclidean distance: negative squared distances, and indices; see `nearest`.

    Each pass takes the queries that the passes before it have not settled.
    """
    approx &= jax.default_backend() == "tpu"  # other backends rank exactly
    given = _Rows(*in_range(queries, gallery))
    passes = PASSES[-1:] if is_deep(k, len(gallery)) and not approx else PASSES
    *found, certain = _search(passes[0], given, k, approx)
    left = np.flatnonzero(~certain)
    if approx or not len(left):
        return found[0], found[1]
    scores, index = (np.array(x) for x in found)
    for step in passes[1:]:
        *found, certain = _search(step, given.of(_padded(left)), k)
        scores[left], index[left] = (x[: len(left)] for x in found)
        left = left[~certain[: len(left)]]
        if not len(left):
            break
    return jnp.asarray(scores), jnp.asarray(index)


def _by_expansion(queries: Float[Array, "a d"], gallery: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """-|q - g|^2 of all pairs, through one matrix product: 2 q.g - |q|^2 - |g|^2."""
    dots = jnp.matmul(queries, gallery.T, precision="highest")
    squared_norms = (jnp.sum(jnp.square(x), axis=-1) for x in (queries, gallery))
    return jnp.minimum(2 * dots - jnp.add.outer(*squared_norms), 0)


def by_difference(queries: Float[Array, "a d"], gallery: Float[Array, "b d"]) -> Float[Array, "a b"]:
    """-|q - g|^2 of all pairs, from the differences."""
    return 0 - jnp.sum(jnp.square(queries[:, None] - gallery[None]), axis=-1)


class _Pass(NamedTuple):
    """A method to score all pairs; the scores of a centered one only find candidates.

    Attributes:
        score_fn: the scores of all pairs.
        dtype: the type in which they are computed.
        centered: whether an image of the gallery is the origin.
        slack: candidates beyond k, as a share of k and a number.
    """

    score_fn: Callable[[Array, Array], Array]
    dtype: DTypeLike
    centered: bool = True
    slack: tuple[float, int] = (0.0, 0)

    def relative_error(self, width: int) -> float:
        """The c of |score + D| <= c (|q - o|^2 + |g - o|^2), with o the origin.

        A sum of d products is off by at most d units of rounding, for the product and for both norms; the
        rounding of the centered coordinates and of the last sums adds less than 16. A TPU splits float32
        into three bfloat16 and sums their products: it loses less than four times as much.
        """
        rounding = float(jnp.finfo(self.dtype).eps) / 2
        return (2 * width + 16) * rounding * (4 if jax.default_backend() == "tpu" else 1)

    def candidates(self, k: int, images: int) -> int:
        """The number of candidates for k neighbors."""
        share, number = self.slack
        return min(k + int(share * k) + number, images)


PASSES = (
    _Pass(_by_expansion, np.float32, slack=(1 / 16, 4)),
    # The remaining queries have many images at nearly the same distance, such as copies.
    _Pass(_by_expansion, np.float64, slack=(3, 64)),
    _Pass(by_difference, np.float64, centered=False),
)


def _padded(rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Rows padded to 256 times a power of two, so that few shapes are compiled."""
    size = 256
    while size < len(rows):
        size *= 2
    return np.append(rows, np.repeat(rows[:1], size - len(rows)))


@jax.jit
def _central(gallery: Float[Array, "g d"]) -> Float[Array, " d"]:
    """The image nearest to the mean of all: coordinates relative to it are small.

    As it is an image, it is subtracted exactly from nearby numbers, and from integers.
    """
    return gallery[jnp.argmin(squared_distances(gallery, jnp.mean(gallery, axis=0)[None]))]


def _wide_device() -> jax.Device:
    """A device that computes in float64; TPUs do not."""
    return jax.devices("cpu")[0] if jax.default_backend() == "tpu" else jax.local_devices()[0]


@dataclass(frozen=True)
class _Rows:
    """Queries and gallery of a search, divided by 2^exponent (`in_range`)."""

    queries: AnyArray
    gallery: AnyArray
    exponent: int

    def of(self, rows: Int[np.ndarray, " n"]) -> "_Rows":
        """The same for some of the queries."""
        return replace(self, queries=self.queries[rows])


def _search(
    step: _Pass, given: _Rows, k: int, approx: bool = False
) -> tuple[Scores, Indices, Bool[np.ndarray, " q"]]:
    """The k nearest among the candidates of one pass, and for which queries they are proved correct."""
    score_fn, device = jax.tree_util.Partial(step.score_fn), _wide_device()
    wide = step.dtype == np.float64
    devices = [device] if wide and device not in jax.local_devices() else jax.local_devices()
    find = partial(top_k, score_fn=score_fn, devices=devices)
    with jax.enable_x64(True):
        images = jax.device_put(given.gallery, device)
        queries = images if given.queries is given.gallery else jax.device_put(given.queries, device)
        if not step.centered:
            arrays = queries.astype(step.dtype), images.astype(step.dtype)
            scores, index = find(*arrays, ranking=Ranking(k, dtype=step.dtype))
            return _in_float32(scores, given.exponent), index, np.ones(len(index), bool)
        origin = _central(images)
        centered = [
            _about(origin, x, step.dtype) for x in ([images] if queries is images else [queries, images])
        ]
        count = step.candidates(k, len(images))
        ranking = Ranking(count, approx, step.dtype)
        candidates = _Candidates(*find(centered[0], centered[-1], ranking=ranking))
        exact, bound = _rescored_by_all(step, queries, _Gallery(images, origin), candidates)
        best, order = ordered(exact, candidates.images, k)
        certain = np.asarray(-best[:, -1] < bound)
        if not certain.all() and (
            count == len(images)
            or is_exact(step.dtype, largest_of(*centered), given.queries, given.gallery)
        ):
            certain = np.ones_like(certain)
        return _in_float32(best, given.exponent), jnp.asarray(order), certain


class _Gallery(NamedTuple):
    """The gallery, and the image of it that is the origin of the candidate scores."""

    images: Float[Array, "g d"]
    origin: Float[Array, " d"]


class _Candidates(NamedTuple):
    """Candidates of each query by approximate scores, best first."""

    scores: Float[Array, "q c"]
    images: Int[Array, "q c"]


def _in_float32(scores: AnyArray, exponent: int) -> Scores:
    """Scores of embeddings that were divided by 2^exponent."""
    with np.errstate(over="ignore", under="ignore"):
        if exponent:
            scores = np.ldexp(np.asarray(scores), 2 * exponent)
        return jnp.asarray(scores.astype(np.float32))


@partial(jax.jit, static_argnums=2)
def _about(origin: Float[Array, " d"], x: Float[Array, "n d"], dtype: DTypeLike) -> Float[Array, "n d"]:
    wide = jnp.float64 if jnp.float64 in (x.dtype, dtype) else jnp.float32
    return (x.astype(wide) - origin.astype(wide)[None]).astype(dtype)


def _rescored_by_all(
    step: _Pass, queries: Float[Array, "q d"], gallery: _Gallery, candidates: _Candidates
) -> tuple[Float[Array, "q c"], Float[Array, " q"]]:
    """`_rescored`, the queries sharded over the devices of this process if they compute in float64."""
    devices = [_wide_device()] if _wide_device() not in jax.local_devices() else jax.local_devices()
    mesh = Mesh(np.array(devices), ("queries",), axis_types=(AxisType.Auto,))
    count, extra = len(queries), -len(queries) % mesh.size
    by_query = jax.tree.map(lambda x: jnp.pad(x, ((0, extra), (0, 0))), (queries, candidates))
    queries, candidates = jax.device_put(by_query, NamedSharding(mesh, SHARDED))
    gallery = jax.device_put(gallery, NamedSharding(mesh, PartitionSpec()))
    scores, bound = _rescored_sharded(queries, gallery, candidates, step=step, mesh=mesh)
    return scores[:count], bound[:count]


@partial(jax.jit, static_argnames=("step", "mesh"))
def _rescored_sharded(
    queries: Array, gallery: _Gallery, candidates: _Candidates, *, step: _Pass, mesh: Mesh
) -> tuple[Array, Array]:
    specs = SHARDED, PartitionSpec(), SHARDED
    rescored = jax.shard_map(
        partial(_rescored, step), mesh=mesh, in_specs=specs, out_specs=SHARDED, check_vma=False
    )
    return rescored(queries, gallery, candidates)


def _rescored(
    step: _Pass, queries: Float[Array, "q d"], gallery: _Gallery, candidates: _Candidates
) -> tuple[Float[Array, "q c"], Float[Array, " q"]]:
    """The negative squared distances of the candidates, and a lower bound on those of all other images.

    The approximate distance of another image is at least L, that of the last candidate. As
    |g - o|^2 <= 2 |q - o|^2 + 2 D, its distance D is at least (L - 3 c |q - o|^2 - t) / (1 + 2 c), with t
    a bound on what may underflow.
    """
    error = step.relative_error(queries.shape[1])
    underflow = 8 * queries.shape[1] * float(jnp.finfo(step.dtype).tiny)

    def block(given: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        x, last, index = given
        x = x.astype(jnp.float64)
        near = jnp.take(gallery.images, index, axis=0, mode="clip").astype(jnp.float64)
        scores = 0 - jnp.sum(jnp.square(x[:, None] - near), axis=-1)
        from_origin = jnp.sum(jnp.square(x - gallery.origin.astype(jnp.float64)[None]), axis=-1)
        return scores, (-last[:, 0] - 3 * error * from_origin - underflow) / (1 + 2 * error)

    room = CPU_MAX_COORDINATES if _wide_device().platform == "cpu" else MAX_COORDINATES
    most = max(1, room // (candidates.images.shape[1] * max(1, queries.shape[1])))
    given = (queries, candidates.scores[:, -1:].astype(jnp.float64), candidates.images)
    scores, bound = jax.lax.map(block, tuple(blocks_of(part, most) for part in given))
    return scores.reshape(-1, candidates.images.shape[1])[: len(queries)], bound.reshape(-1)[: len(queries)]
