"""Norms, distances and means: correct at every scale of float32, NaN where their input is not finite."""

import functools
import operator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from pddm_jax.sharding import shard_like

LOST, OVERFLOWING = 2.0**-80, 2.0**100
"""Squared distances between these are correct: below, squares underflow; above, they soon overflow."""

UP, DOWN = 2.0**80, 2.0**-80
"""Powers of two that scale numbers whose squares underflow, or overflow, into range."""


def safe_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The square root, with gradient 0 where x <= 0; NaN where x is.

    Both `where`s are needed: with the outer one alone the infinite slope at 0 is multiplied by 0.
    """
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def inverse_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """1 / sqrt(x); value and gradient 0 where x <= 1e-24, below which the slope soon overflows.

    NaN where x is NaN or infinite: an infinite sum of squares has overflowed, and its inverse, 0, would
    make the vector pass for a zero vector.
    """
    zero = x <= 1e-24
    inverse = jax.lax.rsqrt(jnp.where(zero, 1, x))
    return jnp.where(zero, 0, jnp.where(x < jnp.inf, inverse, jnp.nan))


def l2_normalize(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    """Return x / |x| over the last axis; a vector of length 1e-12 or less becomes 0, with gradient 0.

    NaN where x is not finite, or |x|^2 overflows (from a length of 1.8e19 on).
    """
    return x * inverse_sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))


def rescaled(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    """Each vector times a power of two, which is 1 unless its squares could underflow or overflow."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0))
    exponent = jnp.clip(jnp.frexp(largest)[1], -126, 126)
    power = jnp.ldexp(jnp.ones((), x.dtype), -exponent)
    return x * jnp.where((largest > 2.0**50) | (largest < 2.0**-40), power, 1).astype(x.dtype)


def squared_distances(x: Float[Array, "*n d"], y: Float[Array, "*m d"]) -> Float[Array, "*nm"]:
    """|x - y|^2 over the last axis, from the differences: exact for near pairs, 0 for equal ones.

    Shapes broadcast: [q, d] and [q, d] give [q]; [n, 1, d] and [1, m, d] give all pairs [n, m],
    which XLA computes in one loop without holding [n, m, d].
    """
    return jnp.sum(jnp.square(x - y), axis=-1)


@dataclass(frozen=True)
class Distances:
    """The distances of all pairs of a batch, as `order`, which grows with them.

    `order` holds squared distances; if float32 cannot hold one of those, it holds distances, not squared.
    """

    order: Float[Array, "b b"]
    rooted: Bool[Array, ""]

    @property
    def plain(self) -> Float[Array, "b b"]:
        """Distances, not squared, correct at every scale."""
        return jnp.where(self.rooted, self.order, safe_sqrt(self.order))

    def squared(self, order: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Squares of entries of `order`; infinite where they overflow, 0 where they underflow."""
        return jnp.where(self.rooted, jnp.square(order), order)


def all_distances(x: Float[Array, "b d"]) -> Distances:
    """The distances of all pairs; each of the devices that x lies on holds its rows.

    Pairs whose squares underflow or overflow are computed again, scaled, only where there are any.
    """
    return Distances(*_ordered(x))


def _differences(x: Float[Array, "b d"], like: Float[Array, "b d"]) -> Float[Array, "b b d"]:
    return shard_like(x, like=like)[:, None] - x[None]


@jax.custom_jvp
def _ordered(x: Float[Array, "b d"]) -> tuple[Float[Array, "b b"], Bool[Array, ""]]:
    squared = jnp.sum(jnp.square(_differences(x, x)), axis=-1)
    suspect = (squared < LOST) & ~jnp.eye(len(x), dtype=bool) | (squared > OVERFLOWING)
    order, rooted = jax.lax.cond(suspect.any(), _by_scale, _as_they_are, x, squared)
    return order, rooted


@_ordered.defjvp
def _ordered_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    """The slope of a distance is the direction of the difference: no square is in its way.

    It is written out, since the gradient of `cond` would keep the differences of all pairs, and that of
    the scaling would underflow or overflow.
    """
    (x,), (dx,) = primals, tangents
    order, rooted = _ordered(x)
    coincide = order <= 0
    slope = jnp.where(rooted, jnp.where(coincide, 0, 1 / jnp.where(coincide, 1, order)), 2)
    slopes = _differences(x, x) * slope[..., None]
    return (order, rooted), (
        jnp.sum(_differences(dx, x) * slopes, axis=-1),
        np.zeros((), jax.dtypes.float0),
    )


def _as_they_are(x: Array, squared: Array) -> tuple[Array, Array]:
    del x
    return squared, jnp.zeros((), bool)


def _by_scale(x: Array, squared: Array) -> tuple[Array, Array]:
    """Distances, each at its own scale; squared ones if all suspect distances are 0."""
    scale = jnp.where(squared < LOST, UP, jnp.where(squared > OVERFLOWING, DOWN, 1)).astype(x.dtype)
    distances = safe_sqrt(jnp.sum(jnp.square(_differences(x, x) * scale[..., None]), axis=-1)) / scale
    rooted = jnp.any((squared < LOST) & (distances > 0) | (squared > OVERFLOWING))
    return jnp.where(rooted, distances, squared), rooted


def masked_mean(x: Float[Array, "*s"], mask: Bool[Array, "*s"]) -> Float[Array, ""]:
    """The mean of x where the mask is set; 0, not NaN, if it is set nowhere."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


def all_finite(*given: PyTree) -> Bool[Array, ""]:
    """Whether all numbers of some arrays, or trees of them, are finite."""
    leaves = (jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(given))
    return functools.reduce(operator.and_, leaves, jnp.ones((), bool))


def nan_unless_finite(
    value: Float[Array, ""], *given: PyTree, fine: Bool[Array, ""] | bool = True
) -> Float[Array, ""]:
    """A loss; NaN, with a gradient of NaN to everything given, where it or anything given is not finite.

    A mask, a maximum or a ReLU may have dropped a number that is not finite, so the inputs are checked. If
    all are finite, the added term is 0, and so is its gradient: no bit changes.

    Args:
        value: the loss.
        *given: the inputs of the loss, arrays or trees of them.
        fine: a further condition.
    """
    nothing = jnp.where(all_finite(value, *given) & fine, 0, jnp.nan).astype(value.dtype)
    return value + sum(jnp.sum(nothing * leaf) for leaf in jax.tree.leaves(given))
