"""Safe norms, squared distances and masked means: finite in value and in gradient, everywhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pddm_jax.mesh import spread


def safe_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The square root, with gradient 0 where x <= 0.

    Both `where`s are needed: with the outer one alone the infinite slope at 0 is multiplied by 0.
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def inverse_sqrt(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """1 / sqrt(x); value and gradient 0 where x <= 1e-24, below which the slope soon overflows."""
    positive = x > 1e-24
    return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, x, 1)), 0)


def l2_normalize(x: Float[Array, "*s d"]) -> Float[Array, "*s d"]:
    """Return x / |x| over the last axis; a vector of length 1e-12 or less becomes 0, with gradient 0."""
    return x * inverse_sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))


def squared_distances(x: Float[Array, "*n d"], y: Float[Array, "*m d"]) -> Float[Array, "*nm"]:
    """|x - y|^2 over the last axis, from the differences: exact for near pairs, 0 for equal ones.

    Shapes broadcast: [q, d] and [q, d] give [q]; [n, 1, d] and [1, m, d] give all pairs [n, m],
    which XLA computes in one loop without holding [n, m, d].
    """
    return jnp.sum(jnp.square(x - y), axis=-1)


def all_squared_distances(x: Float[Array, "b d"]) -> Float[Array, "b b"]:
    """`squared_distances` of all pairs; each of the devices that x lies on holds its rows."""
    return squared_distances(spread(x, like=x)[:, None], x[None])


def masked_mean(x: Float[Array, "*s"], mask: Bool[Array, "*s"]) -> Float[Array, ""]:
    """The mean of x where the mask is set; 0, not NaN, where it is set nowhere."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)
