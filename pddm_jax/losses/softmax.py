"""Normalized softmax loss: cross-entropy of a linear classifier on the cosines to its class weights."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_labels, as_matrix, as_scalar
from pddm_jax.numerics import l2_normalize, nan_unless_finite, rescaled
from pddm_jax.sharding import shard_like
from pddm_jax.types import AnyArray, Scalar


def softmax_loss(
    kernel: Float[AnyArray, "d c"],
    embeddings: Float[AnyArray, "b d"],
    classes: Int[AnyArray, " b"],
    temperature: Scalar = 0.05,
) -> Float[Array, ""]:
    """Mean cross-entropy of a linear classifier on the cosines between images and class weights.

        mean over i of  log( sum_c exp(s_ic / temperature) ) - s_iy / temperature

    with s_ic = x_i . w_c / |w_c|, w_c the weights of class c, y the class of image i. As x has unit length,
    s is a cosine, the similarity by which retrieval ranks. The images are sharded over the devices that x
    lies on.

    Args:
        kernel: [d, c], the columns are w_c, of any scale; a class with zero weights has the cosine 0.
        embeddings: [b, d], of unit length.
        classes: [b], column indices 0 to c - 1. They are not checked; the loss is NaN for others.
        temperature: divides the cosines; the smaller it is, the more the nearest classes count.

    Raises:
        ValueError: kernel or embeddings are not matrices or differ in width, classes are not b integers, or
            temperature is not above 0.

    Source: Zhai, Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019, section 3,
    with its temperature.
    """
    w = as_matrix("kernel", kernel)
    x = as_matrix("embeddings", embeddings, len(w))
    scalar = as_scalar("temperature", temperature)
    if not isinstance(temperature, jax.Array) and temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return _softmax(w, x, _as_columns(classes, len(x)), scalar)


def _as_columns(classes: Int[AnyArray, " b"], length: int) -> Int[AnyArray, " b"]:
    """The checked classes. They are column indices of the classifier, so they are not renumbered."""
    as_labels("classes", classes, length)
    if isinstance(classes, jax.Array):
        return classes
    return np.clip(np.asarray(classes, dtype=object), -1, 2**31 - 1).astype(np.int32)


@jax.jit
def _softmax(w: Array, x: Array, y: Array, temperature: Array) -> Array:
    x, y = shard_like((x, y), like=x)
    known = (y >= 0) & (y < w.shape[1])
    if not w.shape[1] or not len(x):
        return nan_unless_finite(jnp.zeros((), jnp.float32), w, x, temperature, fine=jnp.all(known))
    cosines = jnp.matmul(x, l2_normalize(rescaled(w.T)).T, precision="highest")
    import optax  # slow to import, and used only here

    of_images = optax.softmax_cross_entropy_with_integer_labels(
        cosines / temperature, jnp.where(known, y, 0).astype(jnp.int32)
    )
    return nan_unless_finite(jnp.sum(of_images) / len(x), w, x, temperature, fine=jnp.all(known))
