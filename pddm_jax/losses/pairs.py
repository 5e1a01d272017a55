"""Pairs of a batch by class: which two images have one class, which pairs are positive and negative."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

from pddm_jax.checks import as_labels, as_matrix
from pddm_jax.sharding import shard_like
from pddm_jax.types import AnyArray


def same_class(embeddings: AnyArray, labels: object) -> tuple[Array, Bool[Array, "b b"]]:
    """The checked embeddings [b, d], and for each pair [b, b] whether both images have one class."""
    x = as_matrix("embeddings", embeddings)
    codes = jnp.asarray(as_labels("labels", labels, len(x)))
    return x, shard_like(codes, like=x)[:, None] == codes


def positive_and_negative(same: Bool[Array, "b b"]) -> tuple[Bool[Array, "b b"], Bool[Array, "b b"]]:
    """The masks of positive pairs (one class, two images) and of negative pairs."""
    return same & ~jnp.eye(len(same), dtype=bool), ~same
