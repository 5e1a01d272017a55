"""Pairwise work shared out over the devices that a batch lies on.

The mesh is read off the array, also where jit traces it: who places a batch by a `NamedSharding` has said
all that is needed. What is shared out by hand, or by types (`AxisType.Explicit`), is left as it is.
"""

from typing import TypeVar

import jax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

Arrays = TypeVar("Arrays", bound=PyTree)


def mesh_of(x: Array) -> AbstractMesh | None:
    """The mesh of the devices that x lies on, where XLA may share out work over all of them; else None."""
    mesh: AbstractMesh = jax.typeof(x).sharding.mesh
    return mesh if mesh.are_all_axes_auto and mesh.size > 1 else None


def kind_of(x: Array) -> str:
    """The kind of the devices that x lies on; where the array does not say, of the first that there is."""
    device = jax.typeof(x).sharding.mesh.abstract_device or jax.devices()[0]
    return device.device_kind


def shares(mesh: AbstractMesh) -> PartitionSpec:
    """The first axis shared out over all devices."""
    return PartitionSpec(mesh.axis_names)


def spread(arrays: Arrays, like: Array) -> Arrays:
    """The same arrays, their first axis shared out over the devices that another array lies on."""
    mesh = mesh_of(like)
    if mesh is None:
        return arrays
    return jax.lax.with_sharding_constraint(arrays, NamedSharding(mesh, shares(mesh)))
