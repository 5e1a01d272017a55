"""The schedule of the GPU kernel: the order of its matrix products, and the ring slots that each step uses.

The warpgroup that fetches and those that compute follow the same schedule, so they need no other messages
than the barriers of the slots.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
from jaxtyping import Array

STEP = 64
"""Features that are multiplied at a time."""

CHUNK = 128
"""Features that a product makes: two products of 64 x 128 fill the registers."""

DEPTHS = {"matrices": 3, "images": 2}
"""Slots of the rings. With the widest branch that the kernel supports they fill shared memory, 227 KiB."""

DIFFERENCE, Z_JOINT, MEAN_JOINT = range(3)
"""The matrices: of the difference, and the rows of the joint layer for z and for the branch of the mean."""


class Product(NamedTuple):
    """A product of the pairs of a row with CHUNK columns of a matrix, STEP features at a time."""

    matrix: int
    chunk: int  # of the columns of the matrix
    steps: int
    images: bool  # whether the left side is computed from images; otherwise it is z
    matrices_before: int  # steps of earlier products, which have passed through the ring of matrices
    images_before: int  # those of them that have passed through the ring of images


class JointProducts(NamedTuple):
    """The two products of a chunk of the joint layer, in order."""

    mean: Product
    z: Product


class Schedule(NamedTuple):
    """The products of a row, in order: first the difference, then the joint layer, chunk by chunk."""

    difference: tuple[Product, ...]
    joint: tuple[JointProducts, ...]

    def products(self) -> Iterator[Product]:
        """All products, in order."""
        yield from self.difference
        for chunk in self.joint:
            yield from chunk

    def slots(self, turn: Array, product: Product, k: Array | int) -> "Slots":
        """The slots of step k of a product, in a turn of the program."""
        last = self.joint[-1].z
        matrices = turn * (last.matrices_before + last.steps) + product.matrices_before + k
        images = turn * (last.images_before + last.steps * last.images) + product.images_before + k
        matrix_slots, image_slots = DEPTHS["matrices"], DEPTHS["images"]
        return Slots(
            jax.lax.rem(matrices, matrix_slots),
            matrices >= matrix_slots,
            jax.lax.rem(images, image_slots),
            images >= image_slots,
        )


class Slots(NamedTuple):
    """The slots of a step in the rings, and whether an earlier step has used them."""

    matrix: Array
    matrix_used: Array
    images: Array
    images_used: Array


def make_schedule(d: int, hidden: int, joint: int) -> Schedule:
    """The schedule for a unit of these widths, multiples of CHUNK."""
    counted = {"matrices_before": 0, "images_before": 0}

    def product(matrix: int, chunk: int) -> Product:
        steps, images = (d if matrix == DIFFERENCE else hidden) // STEP, matrix != Z_JOINT
        made = Product(matrix, chunk, steps, images, **counted)
        counted["matrices_before"] += steps
        counted["images_before"] += steps * images
        return made

    difference = tuple(product(DIFFERENCE, n) for n in range(hidden // CHUNK))
    chunks = range(joint // CHUNK)
    return Schedule(
        difference, tuple(JointProducts(product(MEAN_JOINT, n), product(Z_JOINT, n)) for n in chunks)
    )
