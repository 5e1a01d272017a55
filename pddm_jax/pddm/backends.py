"""The hardest partners of each image, by backend: plain JAX, a kernel for GPUs, a kernel for TPUs.

A backend finds the hardest partners of each image in some of the tiles on and above the diagonal of the
pair matrix. All backends take the same batch and tile indices, so devices share the work in the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from pddm_jax.pddm.partners import NO_PARTNER, Best, Extremes, best_partners, fold
from pddm_jax.pddm.tiles import (
    TILE,
    TiledBatch,
    TileIndex,
    UnitWidths,
    cut_tiles,
    scan,
    score_tiles,
    steps_of_tiles,
    symmetric,
    tiles_per_step,
    unit_widths,
)
from pddm_jax.sharding import batch_spec, device_kind, mesh_of
from pddm_jax.types import Params


@runtime_checkable
class Backend(Protocol):
    """An implementation of the search for hardest partners.

    Attributes:
        tile: images along one side of a tile.
        tiles_per_step: tiles that are scored at once, at most; None = as many as plain JAX is fast with.
        platform: the platform of XLA that it is compiled for; empty = any.
    """

    @property
    def tile(self) -> int: ...  # noqa: D102
    @property
    def tiles_per_step(self) -> int | None: ...  # noqa: D102
    @property
    def platform(self) -> str: ...  # noqa: D102

    def supports(self, dtype: DTypeLike, widths: UnitWidths) -> bool:
        """Whether it takes units of these widths, with products of this type."""

    def search(self, batch: TiledBatch, steps: Int[Array, "steps 2 g"]) -> Extremes:
        """The hardest partners of each of the `batch.size` images in some tiles (r, c), r <= c."""


@dataclass(frozen=True)
class PlainBackend:
    """Plain JAX, for every device: scores of some tiles at a time, and a running best for each image."""

    tile: int = TILE
    tiles_per_step: int | None = None
    platform: str = ""

    def supports(self, dtype: DTypeLike, widths: UnitWidths) -> bool:
        """Any unit."""
        del dtype, widths
        return True

    def score(self, batch: TiledBatch, index: TileIndex) -> Float[Array, "g t t"]:
        """Scores of a group of tiles."""
        return score_tiles(batch.params, batch.tiles, batch.tiles, index, dtype=batch.dtype)

    def search(self, batch: TiledBatch, steps: Int[Array, "steps 2 g"]) -> Extremes:
        """The hardest partners, tile by tile."""
        classes = batch.classes
        images = jnp.arange(classes.size, dtype=jnp.int32).reshape(classes.shape)

        def step(best: Extremes, rc: Int[Array, "2 g"]) -> tuple[Extremes, None]:
            index = TileIndex(*rc)
            scores = symmetric(self.score(batch, index), index)
            r, c = index
            here, there = images[r], images[c]
            row, column = jnp.broadcast_arrays(here[:, :, None], there[:, None])
            same = classes[r][:, :, None] == classes[c][:, None]
            real = (row < batch.size) & (column < batch.size)
            positive, negative = same & real & (row != column), ~same & real

            def update(best: Best, value: Array, mask: Array, of_columns: bool = True) -> Best:
                best = fold(best, here.ravel(), _flat(best_partners(value, mask, column)))
                if of_columns:
                    found = best_partners(*(a.swapaxes(1, 2) for a in (value, mask, row)))
                    best = fold(best, there.ravel(), _flat(found))
                return best

            return Extremes(
                update(best.negative, scores, negative),
                update(best.positive, -scores, positive),
                update(best.later, -scores, positive & (row < column), of_columns=False),
            ), None

        none = Best(
            jnp.full(batch.size, -jnp.inf, jnp.float32), jnp.full(batch.size, NO_PARTNER, jnp.int32)
        )
        return scan(step, Extremes(none, none, none), steps)[0]


def _flat(best: Best) -> Best:
    return Best(best.value.ravel(), best.partner.ravel())


@dataclass(frozen=True)
class GPUBackend(PlainBackend):
    """The reduction of `PlainBackend` over the scores of the Pallas kernel for Hopper GPUs, in bfloat16."""

    platform: str = "cuda"

    def supports(self, dtype: DTypeLike, widths: UnitWidths) -> bool:
        """Units that the kernel was compiled for."""
        from pddm_jax.pddm.kernels import gpu

        return gpu.supports(dtype, widths)

    def score(self, batch: TiledBatch, index: TileIndex) -> Float[Array, "g t t"]:
        """Scores of a group of tiles, by the kernel, which has one type of products."""
        from pddm_jax.pddm.kernels import gpu

        return gpu.score_tiles(batch.params, batch.tiles, index)


@dataclass(frozen=True)
class TPUBackend:
    """The Pallas kernel for TPUs, which scores and reduces.

    Attributes:
        tile, tiles_per_step, platform: as in `Backend`.
        interpret: how Pallas interprets the kernel, where it is not compiled.
    """

    tile: int
    tiles_per_step: int | None = 1
    platform: str = "tpu"
    interpret: Any = False

    def supports(self, dtype: DTypeLike, widths: UnitWidths) -> bool:
        """Units that the kernel was compiled for."""
        from pddm_jax.pddm.kernels import tpu

        return tpu.supports(dtype, widths)

    def search(self, batch: TiledBatch, steps: Int[Array, "steps 2 g"]) -> Extremes:
        """The hardest partners, in one kernel."""
        from pddm_jax.pddm.kernels import tpu

        return tpu.search(batch, steps, interpret=self.interpret)


PLAIN = PlainBackend()


def tpu_backend() -> TPUBackend:
    """The backend for TPUs; loads its kernel, and with it Pallas, which is slow to import."""
    from pddm_jax.pddm.kernels import tpu

    return TPUBackend(tpu.TILE)


def gpu_backend() -> GPUBackend:
    """The backend for Hopper GPUs; loads its kernel, and with it Pallas, which is slow to import."""
    from pddm_jax.pddm.kernels import gpu

    return GPUBackend(gpu.TILE, gpu.TILES_PER_STEP)


KERNELS: dict[str, Callable[[], Backend]] = {
    **dict.fromkeys(("TPU v5 lite", "TPU v5", "TPU v6 lite"), tpu_backend),
    **dict.fromkeys(("NVIDIA H100 80GB HBM3", "NVIDIA H200"), gpu_backend),
}
"""By kind of device, if the kernel was compiled for it: a kernel that does not compile ends a run.

The kernel for GPUs was run on an H100 and an H200 with jax 0.11, never with jax 0.10.
"""


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
