"""The hardest partners of each image by PDDM score, by a plain reduction over tiles or by a kernel."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PyTree

from pddm_jax.pddm.partners import NOBODY, Best, Extremes, best_partners, fold
from pddm_jax.pddm.tiles import (
    TILE,
    Tiles,
    cut_tiles,
    scan,
    score_tiles,
    steps_of_tiles,
    symmetric,
    tiles_per_step,
    unit_widths,
)
from pddm_jax.sharding import kind_of, mesh_of, shares
from pddm_jax.types import Params


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
    tiles = Tiles(x, mean)
    images = jnp.arange(classes.size, dtype=jnp.int32).reshape(classes.shape)

    def step(best: Extremes, rc: Int[Array, "2 g"]) -> tuple[Extremes, None]:
        r, c = rc
        scores = symmetric(score(params, tiles, tiles, r, c, dtype), r, c)
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
    return scan(step, Extremes(nothing, nothing, nothing), steps)[0]


def _score_by_gpu(
    params: Params, tiles: Tiles, _: Tiles, r: Array, c: Array, dtype: DTypeLike
) -> Float[Array, "g t t"]:
    """Scores of tiles of x against itself, by a kernel, which has but one type."""
    from pddm_jax.pddm.kernels import gpu

    del dtype
    return gpu.score_tiles(params, *tiles, r, c)


class Backend(NamedTuple):
    """A way to go over the tiles on and above the diagonal.

    Attributes:
        search: `(b, dtype, params, x, mean, classes, steps)` -> the hardest partners of each of b images in
            some of the tiles.
        tile: images along one side of a tile.
        tiles_per_step: at most; None = by the floats that they hold.
        platform: that a kernel is for.
        takes: `(dtype, d, hidden, joint)` -> whether a kernel takes such a unit.
    """

    search: Callable[..., Extremes]
    tile: int
    tiles_per_step: int | None = None
    platform: str = ""
    takes: Callable[[DTypeLike, int, int, int], bool] = lambda dtype, d, hidden, joint: True


PLAIN = Backend(partial(_search, score_tiles), TILE)


def tpu_backend() -> Backend:
    """The Pallas kernel for TPUs."""
    from pddm_jax.pddm.kernels import tpu  # slow to import, as is what it stands on

    return Backend(tpu.search, tpu.TILE, 1, "tpu", tpu.takes)


def gpu_backend() -> Backend:
    """The plain reduction over the scores of the Pallas kernel for Hopper GPUs."""
    from pddm_jax.pddm.kernels import gpu

    return Backend(partial(_search, _score_by_gpu), gpu.TILE, gpu.TOGETHER, "cuda", gpu.takes)


KERNELS: dict[str, Callable[[], Backend]] = {
    **dict.fromkeys(("TPU v5 lite", "TPU v5", "TPU v6 lite"), tpu_backend),
    **dict.fromkeys(("NVIDIA H100 80GB HBM3", "NVIDIA H200"), gpu_backend),
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
    plain, make = partial(shared_out, PLAIN, dtype), KERNELS.get(kind_of(x))
    if make is None or not (kernel := make()).takes(dtype, *unit_widths(params)):
        return plain(params, x, labels)
    # The first device may be an accelerator, and the program for the CPU beside it.
    by_kernel = {kernel.platform: partial(shared_out, kernel, dtype)}
    found: Extremes = jax.lax.platform_dependent(params, x, labels, **by_kernel, default=plain)
    return found


def shared_out(
    backend: Backend, dtype: DTypeLike, params: Params, x: Float[Array, "b d"], labels: Int[Array, " b"]
) -> Extremes:
    """The hardest partners by one backend.

    The devices that x lies on share out the steps (whose size depends on the number of devices on GPUs
    alone); the best of all are the best of their best.
    """
    tiles = cut_tiles(params, x, dtype, backend.tile)
    classes = jnp.pad(labels, (0, len(tiles.x) * backend.tile - len(x))).reshape(-1, backend.tile)
    r, c = np.triu_indices(len(tiles.x))
    steps = steps_of_tiles(r, c, tiles_per_step(params, x, len(r), backend.tiles_per_step))
    search, mesh = partial(backend.search, len(x), dtype), mesh_of(x)
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
