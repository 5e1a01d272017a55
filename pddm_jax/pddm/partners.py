"""The hardest partners of each image as a running best: a maximum with ties to the lowest index.

The result depends neither on the order of the pairs, nor on how often a pair is seen, nor on the device.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

NO_PARTNER = np.iinfo(np.int32).max
"""The index of a partner that does not exist."""


class Best(NamedTuple):
    """For each image its best partner so far; ties go to the lowest index."""

    value: Float[Array, "*b"]  # -inf where there is none
    partner: Int[Array, "*b"]  # NO_PARTNER where there is none


class Extremes(NamedTuple):
    """For each image of a batch its hardest partners; for partners of low score, value = -score."""

    negative: Best  # the negative of highest score
    positive: Best  # the positive of lowest score
    later: Best  # the positive of lowest score among the images after it


def best_partners(
    value: Float[Array, "*n m"], mask: Bool[Array, "*n m"], partner: Int[Array, "*n m"]
) -> Best:
    """The highest value where the mask is set, and its partner; ties go to the lowest index."""
    value = jnp.where(mask, value, -jnp.inf)
    best = jnp.max(value, axis=-1)
    index = jnp.min(jnp.where(mask & (value == best[..., None]), partner, NO_PARTNER), axis=-1)
    return Best(best, index)


def fold(best: Best, image: Int[Array, " n"], found: Best) -> Best:
    """`best` updated by the partners found for some images (an image may occur more than once)."""
    value = best.value.at[image].max(found.value)
    index = jnp.where(best.value == value, best.partner, NO_PARTNER)
    index = index.at[image].min(jnp.where(found.value == value[image], found.partner, NO_PARTNER))
    return Best(value, index)


def better(one: Best, other: Best) -> Best:
    """The better of two for each image."""
    value = jnp.maximum(one.value, other.value)
    partners = (jnp.where(best.value == value, best.partner, NO_PARTNER) for best in (one, other))
    return Best(value, jnp.minimum(*partners))
