"""The hardest partners of each image by PDDM score: the choice of a backend, and its work over devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.pddm.backends import KERNELS, PLAIN, Backend
from pddm_jax.pddm.partners import NO_PARTNER, Best, Extremes
from pddm_jax.pddm.tiles import TiledBatch, cut_tiles, steps_of_tiles, tiles_per_step, unit_widths
from pddm_jax.sharding import batch_spec, device_kind, mesh_of
from pddm_jax.types import Params


def hardest_partners(
    params: Params, x: Float[Array, "b d"], labels: Int[Array, " b"], *, dtype: DTypeLike
) -> Extremes:
    """The hardest partners of each image by PDDM score, never holding [b, b].

    A kernel computes them where the device has one that supports the unit. Otherwise, so on every CPU,
    tiles and scores are those of `score_matrix`, so that ties fall the same way.
    """
    plain = partial(search_with, backend=PLAIN, dtype=dtype)
    make_kernel = KERNELS.get(device_kind(x))
    if make_kernel is None or not (kernel := make_kernel()).supports(dtype, unit_widths(params)):
        return plain(params, x, labels)
    # The first device may be an accelerator where the program is compiled for the CPU of its host.
    by_platform = {kernel.platform: partial(search_with, backend=kernel, dtype=dtype)}
    found: Extremes = jax.lax.platform_dependent(params, x, labels, **by_platform, default=plain)
    return found


def search_with(
    params: Params,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    *,
    backend: Backend,
    dtype: DTypeLike,
) -> Extremes:
    """The hardest partners by one backend.

    The devices that x lies on share the steps. On GPUs alone the size of a step depends on the number of
    devices. The best of all devices is the best of their bests.
    """
    tiles = cut_tiles(params, x, dtype, backend.tile)
    classes = jnp.pad(labels, (0, len(tiles.x) * backend.tile - len(x))).reshape(-1, backend.tile)
    batch = TiledBatch(params, tiles, classes, size=len(x), dtype=dtype)
    r, c = np.triu_indices(len(tiles.x))
    steps = steps_of_tiles(r, c, tiles_per_step(params, x, len(r), backend.tiles_per_step))
    mesh = mesh_of(x)
    if mesh is None:
        return backend.search(batch, steps)

    def search_share(batch: TiledBatch, steps: Int[Array, "steps 2 g"]) -> Extremes:
        return Extremes(*(best_of_devices(found) for found in backend.search(batch, steps)))

    def best_of_devices(found: Best) -> Best:
        value = jax.lax.pmax(found.value, mesh.axis_names)
        partner = jnp.where(found.value == value, found.partner, NO_PARTNER)
        return Best(value, jax.lax.pmin(partner, mesh.axis_names))

    replicated = PartitionSpec()
    specs = replicated, batch_spec(mesh)
    share = jax.shard_map(search_share, mesh=mesh, in_specs=specs, out_specs=replicated, check_vma=False)
    steps = jnp.pad(steps, ((0, -len(steps) % mesh.size), (0, 0), (0, 0)), "edge")
    return share(batch, steps)
