"""Sharding: one mesh with a `data` axis, pairwise work over the devices of a batch, and microbatches.

The mesh is read off the array, also under jit: a batch with a `NamedSharding` needs no other argument.
Arrays sharded manually, or by types (`AxisType.Explicit`), are left as they are.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

Arrays = TypeVar("Arrays", bound=PyTree)
Shares = TypeVar("Shares", bound=PyTree)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or those given, along one axis, `data`, by process.

    So each process holds contiguous rows of a batch; `jax.make_mesh` would order the devices of a pod by
    their wiring.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def round_up_to_devices(size: int, mesh: Mesh) -> int:
    """The least multiple of the number of devices that is not below a batch size."""
    return -(-size // mesh.size) * mesh.size


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The first axis sharded over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def global_batches(batches: Iterable[Shares], mesh: Mesh) -> Iterator[Shares]:
    """Each process's share of a batch as one global batch, sharded over the mesh."""
    for batch in batches:
        yield jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharded(mesh), x), batch)


def mesh_of(x: Array) -> AbstractMesh | None:
    """The mesh of the devices that x lies on, if XLA may shard work over all of them; otherwise None."""
    mesh: AbstractMesh = jax.typeof(x).sharding.mesh
    return mesh if mesh.are_all_axes_auto and mesh.size > 1 else None


def device_kind(x: Array) -> str:
    """The kind of the devices that x lies on; if the array has none, the kind of the first device."""
    device = jax.typeof(x).sharding.mesh.abstract_device or jax.devices()[0]
    return device.device_kind


def batch_spec(mesh: AbstractMesh) -> PartitionSpec:
    """The partition of the first axis over all devices."""
    return PartitionSpec(mesh.axis_names)


def shard_like(arrays: Arrays, like: Array, axis: int = 0) -> Arrays:
    """The same arrays, with one axis sharded over the devices that another array lies on."""
    mesh = mesh_of(like)
    if mesh is None:
        return arrays
    shared = PartitionSpec(*[None] * axis, *batch_spec(mesh))
    return jax.lax.with_sharding_constraint(arrays, NamedSharding(mesh, shared))


def split_microbatches(
    batch: Shaped[Array, "b ..."], microbatches: int
) -> Shaped[Array, "microbatches m ..."]:
    """Split a batch into microbatches of equal shares of every device's rows: no row leaves its device.

    Raises:
        ValueError: the batch does not divide over its devices, times microbatches.
    """
    mesh = mesh_of(batch)
    devices = mesh.size if mesh else 1
    if len(batch) % (devices * microbatches):
        raise ValueError(
            f"a batch of {len(batch)} images does not divide over {devices} devices x {microbatches} "
            "microbatches"
        )
    apart = batch.reshape(devices, microbatches, -1, *batch.shape[1:]).swapaxes(0, 1)
    return shard_like(apart.reshape(microbatches, -1, *batch.shape[1:]), batch, axis=1)


def merge_microbatches(apart: Shaped[Array, "microbatches m ..."], like: Array) -> Shaped[Array, "b ..."]:
    """Merge microbatches into rows in the order of the batch `like` that they were split from."""
    mesh = mesh_of(like)
    devices = mesh.size if mesh else 1
    batch = apart.reshape(len(apart), devices, -1, *apart.shape[2:]).swapaxes(0, 1)
    return shard_like(batch.reshape(-1, *apart.shape[2:]), like)
