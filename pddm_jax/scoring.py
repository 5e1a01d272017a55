"""PDDM scores of all pairs, tile by tile: what leaves a tile is its scores, or only the best of them.

Two facts make a pair cost 2dh + 4hc operations instead of 4dh + 4hc, over half of the pairs: the
mean's branch is linear before its ReLU, so each image's share of it is computed once; and S is
symmetric, so only the tiles on and above the diagonal are work.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from pddm_jax.checks import as_matrix, as_reals, check_choice
from pddm_jax.kernels import gpu, tpu
from pddm_jax.mesh import kind_of, mesh_of, shares
from pddm_jax.pairwise import all_finite, inverse_sqrt
from pddm_jax.partners import NOBODY, Best, Extremes, best_partners, fold
from pddm_jax.pddm import PDDM
from pddm_jax.types import DTYPES, AnyArray, Params

TILE = 8
"""Images along one side of a tile; small, so that little is computed below the diagonal."""

STEP = 2**20
"""Floats that the tiles scored together hold in all layers: few enough for a core's caches."""

STEP_OF_A_GPU = 2**25
"""The same on a GPU: enough to fill it, at 140 to 230 MB on an H200 (docs/performance.md)."""

LAYERS = ("difference", "joint", "mean", "score")
LEAVES = ("kernel", "bias")


def check_dtype(dtype: object) -> str:
    """The name of a type of matrix products; ValueError where it is not one of the two."""
    try:
        name = dtype if isinstance(dtype, str) else str(jnp.dtype(dtype).name)  # type: ignore[call-overload]
    except TypeError:
        name = repr(dtype)
    check_choice("dtype", name, DTYPES)
    return name


def as_unit(params: Params) -> Params:
    """Parameters of a unit, in float32; ValueError where they are not a unit's."""
    check_unit(params)
    return {
        layer: {name: as_reals(f"params[{layer!r}][{name!r}]", params[layer][name]) for name in LEAVES}
        for layer in LAYERS
    }


def check_unit(params: Params) -> int:
    """The number of features that the unit scores; ValueError where `params` are not a unit's."""
    try:
        shapes = {layer: params[layer]["kernel"].shape for layer in LAYERS}
        widths = {layer: params[layer]["bias"].shape for layer in LAYERS}
        (d, h), (joint_in, joint) = shapes["difference"], shapes["joint"]
        fits = shapes["mean"] == (d, h) and joint_in == 2 * h and shapes["score"] == (joint, 1)
        fits &= all(widths[layer] == shapes[layer][1:] for layer in LAYERS)
    except (AttributeError, LookupError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"params must hold the layers {list(LAYERS)} of a PDDM unit")
    return d


def pair_scores(
    params: Params,
    x: Float[AnyArray, "*s d"],
    y: Float[AnyArray, "*s d"],
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*s"]:
    """PDDM scores S(x, y) of given pairs; higher = more similar. See `PDDM` for formula and source.

    Jit-compiled. A score is NaN where its pair or a parameter is not finite, or where it overflows.

    Args:
        params: parameters of a PDDM unit.
        x: [..., d] embeddings, of any type.
        y: [..., d] embeddings, of the shape of x.
        dtype: type of the matrix products, float32 or bfloat16.

    Returns:
        [...] float32 scores.

    Raises:
        ValueError: x does not fit params, y does not fit x, or dtype is not one of the two.
    """
    dtype, d = check_dtype(dtype), check_unit(params)
    x, y = as_reals("x", x), as_reals("y", y)
    if x.shape[-1:] != (d,):
        raise ValueError(f"x must have {d} features, as params has, got shape {x.shape}")
    if x.shape != y.shape:
        raise ValueError(f"y must have the shape of x, {x.shape}, got {y.shape}")
    return _pair_scores(as_unit(params), x, y, dtype)


@partial(jax.jit, static_argnums=3)
def _pair_scores(params: Params, x: Array, y: Array, dtype: str) -> Float[Array, "*s"]:
    unit = PDDM(params["mean"]["kernel"].shape[-1], params["joint"]["kernel"].shape[-1], jnp.dtype(dtype))
    scores: Array = unit.apply({"params": params}, x, y)  # type: ignore[assignment]
    return scores + jnp.where(all_finite(params), 0, jnp.nan).astype(jnp.float32)


class _Tiles(NamedTuple):
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


def _cut(params: Params, x: Float[Array, "n d"], dtype: DTypeLike, tile: int = TILE) -> _Tiles:
    count = -(-len(x) // tile)
    x = jnp.pad(x, ((0, count * tile - len(x)), (0, 0)))
    mean = (_matmul(x.astype(dtype), params["mean"]["kernel"]) + params["mean"]["bias"]) / 2
    # All scores of an image go through its share of the mean, in every form; a ReLU could hide an infinity.
    mean += _nan_where_not_finite(params, x)
    return _Tiles(x.reshape(count, tile, -1), mean.reshape(count, tile, -1))


def _score_tiles(
    params: Params,
    rows: _Tiles,
    columns: _Tiles,
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


def _symmetric(
    scores: Float[Array, "g t t"], r: Int[Array, " g"], c: Int[Array, " g"]
) -> Float[Array, "g t t"]:
    """Scores of tiles with r <= c; one on the diagonal becomes symmetric to the bit."""
    mirrored = jnp.triu(scores) + jnp.triu(scores, 1).swapaxes(1, 2)
    return jnp.where((r == c)[:, None, None], mirrored, scores)


def _widths(params: Params) -> tuple[int, int, int]:
    """Widths of the embeddings, of the branches and of the joint layer."""
    d, hidden = params["difference"]["kernel"].shape
    return d, hidden, params["joint"]["kernel"].shape[1]


def _together(params: Params, x: Float[Array, "n d"], tiles: int, most: int | None = None) -> int:
    """How many of so many tiles a device of x scores at once: `most`, or what the plain form can."""
    d, hidden, joint = _widths(params)
    on_a_gpu, mesh = kind_of(x).startswith("NVIDIA"), mesh_of(x)
    floats = STEP_OF_A_GPU if on_a_gpu else STEP
    most = most or max(1, floats // (TILE**2 * (d + 2 * hidden + joint)))
    # A GPU's steps are few: more of them, where several devices share them out.
    return min(most, -(-tiles // mesh.size)) if on_a_gpu and mesh else most


def _steps(r: Int[AnyArray, " n"], c: Int[AnyArray, " n"], most: int) -> Int[Array, "steps 2 g"]:
    """Tile indices in even steps of at most so many; the last is filled up with its last tile again."""
    count = -(-len(r) // most)
    index = np.minimum(np.arange(len(r) + -len(r) % count), len(r) - 1).reshape(count, 1, -1)
    return jnp.concatenate([r[index], c[index]], axis=1, dtype=jnp.int32)


_scan = partial(jax.lax.scan, unroll=2)  # two steps in flight hide what each cannot spread over cores


def _place(
    blocks: Float[Array, "n m t t"], r: np.ndarray, c: np.ndarray, tiles: Float[Array, "g t t"]
) -> Float[Array, "n m t t"]:
    # Without these promises the gradient finds out, in twice the memory, which tile wrote a place last.
    return blocks.at[r, c].set(tiles, unique_indices=True, mode="promise_in_bounds")


def score_matrix(
    params: Params,
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"] | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "n m"]:
    """PDDM scores S(x_i, y_j) of all pairs; higher = more similar. See `PDDM` for the formula.

    Jit-compiled. Differentiable; the backward pass computes each tile again instead of keeping [n, m, d].
    A score is NaN where its pair or a parameter is not finite, or where it overflows.

    Args:
        params: parameters of a PDDM unit.
        x: [n, d] embeddings, of any type.
        y: [m, d] embeddings; None scores x against itself, at half the work, and the result is
            then symmetric to the bit.
        dtype: type of the matrix products, float32 or bfloat16.

    Returns:
        [n, m] float32 scores ([n, n] where y is None).

    Raises:
        ValueError: x or y is no matrix or does not fit params, or dtype is not one of the two.
    """
    dtype, d = check_dtype(dtype), check_unit(params)
    x = as_matrix("x", x, d)
    y = None if y is None else as_matrix("y", y, d)
    return _score_matrix(as_unit(params), x, y, dtype)


@partial(jax.jit, static_argnums=3)
def _score_matrix(params: Params, x: Array, y: Array | None, dtype: str) -> Float[Array, "n m"]:
    n, m = len(x), len(x if y is None else y)
    if not n * m:
        return jnp.zeros((n, m), jnp.float32)
    rows = _cut(params, x, dtype)
    columns = rows if y is None else _cut(params, y, dtype)
    shape = len(rows.x), len(columns.x)
    r, c = np.triu_indices(shape[0]) if y is None else np.indices(shape).reshape(2, -1)

    @partial(jax.checkpoint, prevent_cse=False)
    def step(rc: Int[Array, "2 g"]) -> Float[Array, "g t t"]:
        scores = _score_tiles(params, rows, columns, rc[0], rc[1], dtype)
        return _symmetric(scores, rc[0], rc[1]) if y is None else scores

    steps = _steps(r, c, _together(params, x, len(r)))
    tiles = _scan(lambda _, rc: (None, step(rc)), None, steps)[1]
    tiles = tiles.reshape(-1, TILE, TILE)[: len(r)]
    blocks = _place(jnp.zeros((*shape, TILE, TILE), tiles.dtype), r, c, tiles)
    if y is None:
        blocks = _place(blocks, c, r, tiles.swapaxes(1, 2))
    return blocks.swapaxes(1, 2).reshape(shape[0] * TILE, -1)[:n, :m]


def _search(
    score: Callable[..., Float[Array, "g t t"]],
    b: int,
    dtype: DTypeLike,
    params: Params,
    x: Float[Array, "n t d"],
    mean: Float[Array, "n t h"],
    classes: Int[Array, "n t"],
    steps: Int[Array, "steps 2 g"],
) -> Extremes:
    """A running best for each image, from one step to the next, of what `score` says of its tiles."""
    tiles = _Tiles(x, mean)
    images = jnp.arange(classes.size, dtype=jnp.int32).reshape(classes.shape)

    def step(best: Extremes, rc: Int[Array, "2 g"]) -> tuple[Extremes, None]:
        r, c = rc
        scores = _symmetric(score(params, tiles, tiles, r, c, dtype), r, c)
        here, there = images[r], images[c]
        row, column = jnp.broadcast_arrays(here[:, :, None], there[:, None])
        same = classes[r][:, :, None] == classes[c][:, None]
        real = (row < b) & (column < b)
        positive, negative = same & real & (row != column), ~same & real

        def see(best: Best, value: Array, mask: Array, of_columns: bool = True) -> Best:
            best = fold(best, here.ravel(), _flat(best_partners(value, mask, column)))
            if of_columns:
                found = best_partners(*(a.swapaxes(1, 2) for a in (value, mask, row)))
                best = fold(best, there.ravel(), _flat(found))
            return best

        return Extremes(
            see(best.negative, scores, negative),
            see(best.positive, -scores, positive),
            see(best.later, -scores, positive & (row < column), of_columns=False),
        ), None

    def _flat(best: Best) -> Best:
        return Best(best.value.ravel(), best.partner.ravel())

    nothing = Best(jnp.full(b, -jnp.inf, jnp.float32), jnp.full(b, NOBODY, jnp.int32))
    return _scan(step, Extremes(nothing, nothing, nothing), steps)[0]


def _score_by_gpu(
    params: Params, tiles: _Tiles, _: _Tiles, r: Array, c: Array, dtype: DTypeLike
) -> Float[Array, "g t t"]:
    """Scores of tiles of x against itself, by a kernel, which has but one type."""
    del dtype
    return gpu.score_tiles(params, *tiles, r, c)


class Form(NamedTuple):
    """A way to go over the tiles on and above the diagonal.

    `search(b, dtype, params, x, mean, classes, steps)` gives the hardest partners of each of b images in
    some of them. A kernel is for one platform and for some units.
    """

    search: Callable[..., Extremes]
    tile: int  # images along one side of a tile
    together: int | None = None  # tiles of a step, at most; None: by the floats that they hold
    platform: str = ""
    takes: Callable[[DTypeLike, int, int, int], bool] = lambda dtype, d, hidden, joint: True


PLAIN = Form(partial(_search, _score_tiles), TILE)
ON_A_TPU = Form(tpu.search, tpu.TILE, 1, "tpu", tpu.takes)
ON_A_GPU = Form(partial(_search, _score_by_gpu), gpu.TILE, gpu.TOGETHER, "cuda", gpu.takes)

KERNELS = {
    **dict.fromkeys(("TPU v5 lite", "TPU v5", "TPU v6 lite"), ON_A_TPU),
    **dict.fromkeys(("NVIDIA H100 80GB HBM3", "NVIDIA H200"), ON_A_GPU),
}
"""By kind of device, and only those that it was compiled for: a kernel that does not compile ends a run.

The GPU's was run on an H100 and an H200 with jax 0.11, never with jax 0.10.
"""


def hardest_partners(
    params: Params, x: Float[Array, "b d"], labels: Int[Array, " b"], dtype: DTypeLike
) -> Extremes:
    """The hardest partners of each image by PDDM score, never holding [b, b].

    By a kernel where the device has one that takes the unit. Elsewhere, so on every CPU, tiles and scores
    are those of `score_matrix`, so that ties fall the same way.
    """
    plain, kernel = partial(_share_out, PLAIN, dtype), KERNELS.get(kind_of(x))
    if kernel is None or not kernel.takes(dtype, *_widths(params)):
        return plain(params, x, labels)
    # The first device may be an accelerator, and the program for the CPU beside it.
    by_kernel = {kernel.platform: partial(_share_out, kernel, dtype)}
    found: Extremes = jax.lax.platform_dependent(params, x, labels, **by_kernel, default=plain)
    return found


def _share_out(
    form: Form, dtype: DTypeLike, params: Params, x: Float[Array, "b d"], labels: Int[Array, " b"]
) -> Extremes:
    """The hardest partners by one form.

    The devices that x lies on share out the steps (whose size depends on the number of devices on GPUs
    alone); the best of all are the best of their best.
    """
    tiles = _cut(params, x, dtype, form.tile)
    classes = jnp.pad(labels, (0, len(tiles.x) * form.tile - len(x))).reshape(-1, form.tile)
    r, c = np.triu_indices(len(tiles.x))
    steps = _steps(r, c, _together(params, x, len(r), form.together))
    search, mesh = partial(form.search, len(x), dtype), mesh_of(x)
    if mesh is None:
        return search(params, *tiles, classes, steps)

    def search_share(*given: PyTree) -> Extremes:
        return Extremes(*(best_of_all(found) for found in search(*given)))

    def best_of_all(found: Best) -> Best:
        value = jax.lax.pmax(found.value, mesh.axis_names)
        partner = jnp.where(found.value == value, found.partner, NOBODY)
        return Best(value, jax.lax.pmin(partner, mesh.axis_names))

    everywhere = PartitionSpec()
    specs = *[everywhere] * 4, shares(mesh)
    share = jax.shard_map(search_share, mesh=mesh, in_specs=specs, out_specs=everywhere, check_vma=False)
    steps = jnp.pad(steps, ((0, -len(steps) % mesh.size), (0, 0), (0, 0)), "edge")
    return share(params, *tiles, classes, steps)
