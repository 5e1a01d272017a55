"""Losses of deep metric learning: one pure function a formula, 0 where there is nothing to learn from.

Notation: x_i are the embeddings, y_i the labels, D_ij = |x_i - x_j|^2 the squared distance of two
embeddings, S_ij their PDDM score, [t]+ = max(0, t). A pair is positive where y_i = y_j, i != j.

What holds for every loss here, and for every objective made of them:

- It is a float32 scalar, computed in float32, whatever type comes in and whatever JAX's default type is.
- It is NaN, and so is its gradient, where any embedding or other number that it is given (parameters of
  the unit, a classifier, a margin) is not finite: whatever the labels, also where no pair uses it.
- It is NaN, and so is its gradient, where float32 cannot hold what the loss is computed from, such as the
  squares of finite embeddings of 1e20.
- Distances, and their gradients, are right at every scale that float32 has.
- It is 0, with a gradient of 0, where there is nothing to compare: of an empty batch, of one image, and
  where all images have one class, or each its own, unless the loss has a term for positive, or for
  negative, pairs alone (`contrastive_loss`). Classification compares an image with classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pddm_jax.checks import as_labels, as_matrix, as_scalar, as_scalars, check_choice
from pddm_jax.numerics import (
    Distances,
    all_distances,
    all_finite,
    l2_normalize,
    masked_mean,
    nan_unless_finite,
    rescaled,
)
from pddm_jax.sharding import shard_like
from pddm_jax.types import AnyArray, Scalar

TRIPLET_MINING = ("all", "semihard", "hard")


def _classes(embeddings: AnyArray, labels: object) -> tuple[Array, Array]:
    """The checked embeddings, and [b, b]: is it one class?"""
    x = as_matrix("embeddings", embeddings)
    codes = jnp.asarray(as_labels("labels", labels, len(x)))
    return x, shard_like(codes, like=x)[:, None] == codes


def _positive_and_negative(same: Bool[Array, "b b"]) -> tuple[Bool[Array, "b b"], Bool[Array, "b b"]]:
    return same & ~jnp.eye(len(same), dtype=bool), ~same


def contrastive_loss(
    embeddings: Float[AnyArray, "b d"], labels: Int[AnyArray, " b"], margin: Scalar = 1.0
) -> Float[Array, ""]:
    """Positives together, negatives at least `margin` apart.

        mean over positive pairs of D_ij  +  mean over negative pairs of [margin - sqrt(D_ij)]+^2

    Each mean is over its own pairs, since a batch holds far more negative pairs than positive ones.

    Args:
        embeddings: [b, d].
        labels: [b], any integers.
        margin: least distance (not squared) of negatives.

    Returns:
        A scalar; a mean over no pair is 0.

    Raises:
        ValueError: embeddings are no matrix, or labels are not b integers.

    Source: Hadsell, Chopra, LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006, equation 4, balanced.
    """
    return _contrastive(*_classes(embeddings, labels), *as_scalars(margin=margin))


@jax.jit
def _contrastive(x: Array, same: Array, margin: Array) -> Array:
    positive, negative = _positive_and_negative(same)
    distances = all_distances(x)
    apart = jnp.square(jax.nn.relu(margin - distances.plain))
    pulled = masked_mean(distances.squared(distances.order), positive)
    return nan_unless_finite(pulled + masked_mean(apart, negative), x, margin)


def triplet_loss(
    embeddings: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    margin: Scalar = 0.2,
    mining: str = "semihard",
) -> Float[Array, ""]:
    """A positive nearer than a negative by `margin`: the mean of [margin + D_ap - D_an]+ over triplets.

    The triplets (a, p, n), p a positive and n a negative of a, are by `mining`:

    - "all": those that violate the margin (the others would only water down the mean);
    - "semihard": for each (a, p) the nearest negative that is farther than p, or, where none is,
      the farthest negative;
    - "hard": for each a the farthest positive and the nearest negative.

    Args:
        embeddings: [b, d].
        labels: [b], any integers.
        margin: between squared distances.
        mining: which triplets.

    Returns:
        A scalar, 0 without a triplet.

    Raises:
        ValueError: embeddings are no matrix, labels are not b integers, or mining is unknown.

    Source: Schroff, Kalenichenko, Philbin, "FaceNet", CVPR 2015, section 3 ("semihard"); Hermans,
    Beyer, Leibe, "In Defense of the Triplet Loss", 2017, section 2 ("all" is their batch-all
    over non-zero terms, "hard" their batch-hard, here with squared distances).
    """
    check_choice("mining", mining, TRIPLET_MINING)
    return _triplet(*_classes(embeddings, labels), *as_scalars(margin=margin), mining)


@partial(jax.jit, static_argnums=3)
def _triplet(x: Array, same: Array, margin: Array, mining: str) -> Array:
    if not len(x):
        return nan_unless_finite(jnp.zeros((), jnp.float32), x, margin)
    distances = all_distances(x)
    hinge, used = _triplet_hinges(distances, same, margin, mining)
    # XLA may contract the difference of two squares that overflow to a multiply-add, which is finite.
    fine = all_finite(distances.squared(distances.order))
    return nan_unless_finite(masked_mean(hinge, used), x, margin, fine=fine)


def _triplet_hinges(distances: Distances, same: Array, margin: Array, mining: str) -> tuple[Array, Array]:
    """The hinges of triplets, and which of them are meant."""
    positive, negative = _positive_and_negative(same)
    order, squared = distances.order, distances.squared
    if mining == "hard":
        nearest = jnp.min(jnp.where(negative, order, jnp.inf), axis=1)
        farthest = jnp.max(jnp.where(positive, order, -jnp.inf), axis=1)
        usable = positive.any(axis=1) & negative.any(axis=1)
        gap = squared(jnp.where(usable, farthest, 0)) - squared(jnp.where(usable, nearest, 0))
        return jax.nn.relu(margin + gap), usable
    triplet = positive[:, :, None] & negative[:, None]
    if mining == "all":
        far = squared(order)
        hinge = jax.nn.relu(margin + far[:, :, None] - far[:, None])
        return hinge, triplet & (hinge > 0)
    to_positive, to_negative = order[:, :, None], order[:, None]
    farther = jnp.where(triplet & (to_negative > to_positive), to_negative, jnp.inf).min(axis=2)
    farthest = jnp.max(jnp.where(negative, order, -jnp.inf), axis=1, keepdims=True)
    usable = positive & negative.any(axis=1, keepdims=True)
    chosen = jnp.where(jnp.isfinite(farther), farther, farthest)
    return jax.nn.relu(margin + squared(order) - squared(jnp.where(usable, chosen, 0))), usable


def lifted_structure_loss(
    embeddings: Float[AnyArray, "b d"], labels: Int[AnyArray, " b"], margin: Scalar = 1.0
) -> Float[Array, ""]:
    """Each positive pair against all negatives of both its images.

        J_ij = log( sum_k exp(margin - d_ik) + sum_l exp(margin - d_jl) ) + d_ij,   d = sqrt(D)
        loss = 1 / (2 |P|) * sum over (i, j) in P of [J_ij]+^2

    with k the negatives of i, l those of j, and P the positive pairs i < j that have negatives.

    Args:
        embeddings: [b, d].
        labels: [b], any integers.
        margin: between distances (not squared).

    Returns:
        A scalar, 0 where P is empty.

    Raises:
        ValueError: embeddings are no matrix, or labels are not b integers.

    Source: Oh Song, Xiang, Jegelka, Savarese, "Deep Metric Learning via Lifted Structured Feature
    Embedding", CVPR 2016, equation 4 (the smooth bound).
    """
    return _lifted_structure(*_classes(embeddings, labels), *as_scalars(margin=margin))


@jax.jit
def _lifted_structure(x: Array, same: Array, margin: Array) -> Array:
    positive, negative = _positive_and_negative(same)
    distances = all_distances(x).plain
    has_negative = negative.any(axis=1)
    # An image without negatives is kept out of the logarithm: its sum is empty, its gradient nan.
    terms = jnp.where(negative, margin - distances, jnp.where(has_negative[:, None], -jnp.inf, 0))
    near = jax.nn.logsumexp(terms, axis=1)
    pairs = jnp.triu(positive, 1) & has_negative[:, None] & has_negative
    structured = jnp.logaddexp(near[:, None], near) + distances
    return nan_unless_finite(masked_mean(jnp.square(jax.nn.relu(structured)), pairs) / 2, x, margin)


def multi_similarity_loss(
    embeddings: Float[AnyArray, "b d"],
    labels: Int[AnyArray, " b"],
    alpha: Scalar = 2.0,
    beta: Scalar = 50.0,
    base: Scalar = 0.5,
    margin: Scalar = 0.1,
) -> Float[Array, ""]:
    """Pairs weighted by their similarity and by that of their neighbours, after mining.

        mean over i of  1/alpha log(1 + sum_j exp(-alpha (s_ij - base)))      j: mined positives
                      + 1/beta  log(1 + sum_k exp(  beta (s_ik - base)))      k: mined negatives

    with s the dot product. A positive j is mined where s_ij - margin is below the highest negative
    of i, a negative k where s_ik + margin is above the lowest positive of i.

    Args:
        embeddings: [b, d], of unit length.
        labels: [b], any integers.
        alpha: sharpness for positives.
        beta: sharpness for negatives.
        base: the similarity around which pairs are weighted.
        margin: slack of the mining.

    Returns:
        A scalar; an image without mined pairs counts as 0.

    Raises:
        ValueError: embeddings are no matrix, or labels are not b integers.

    Source: Wang, Han, Huang, Dong, Scott, "Multi-Similarity Loss with General Pair Weighting for
    Deep Metric Learning", CVPR 2019, equations 11 to 16; constants of the authors' code.
    """
    scalars = as_scalars(alpha=alpha, beta=beta, base=base, margin=margin)
    return _multi_similarity(*_classes(embeddings, labels), *scalars)


@jax.jit
def _multi_similarity(
    x: Array, same: Array, alpha: Array, beta: Array, base: Array, margin: Array
) -> Array:
    positive, negative = _positive_and_negative(same)
    similarity = jnp.matmul(shard_like(x, like=x), x.T, precision="highest")
    lowest = jnp.min(jnp.where(positive, similarity, jnp.inf), axis=1, keepdims=True, initial=jnp.inf)
    highest = jnp.max(jnp.where(negative, similarity, -jnp.inf), axis=1, keepdims=True, initial=-jnp.inf)

    def pull(mined: Array, exponent: Array) -> Array:
        """log(1 + sum of exp), the 1 being one more term of exponent 0."""
        terms = jnp.where(mined, exponent, -jnp.inf)
        return jax.nn.logsumexp(jnp.pad(terms, ((0, 0), (0, 1))), axis=1)

    positives = pull(positive & (similarity - margin < highest), -alpha * (similarity - base))
    negatives = pull(negative & (similarity + margin > lowest), beta * (similarity - base))
    value = jnp.sum(positives / alpha + negatives / beta) / max(len(x), 1)
    # Products that overflow are equal, and mine nothing.
    return nan_unless_finite(value, x, alpha, beta, base, margin, fine=all_finite(similarity))


def softmax_loss(
    kernel: Float[AnyArray, "d c"],
    embeddings: Float[AnyArray, "b d"],
    classes: Int[AnyArray, " b"],
    temperature: Scalar = 0.05,
) -> Float[Array, ""]:
    """Each image to its class among all that there are: the mean cross-entropy of a linear classifier.

        mean over i of  log( sum_c exp(s_ic / temperature) ) - s_iy / temperature

    with s_ic = x_i . w_c / |w_c|, w_c the weights for class c, y the class of image i. As x has
    unit length, s is a cosine: an image comes near its class as images are later said to be near. The
    images are shared out over the devices that x lies on.

    Args:
        kernel: [d, c], w_c its columns, of any scale; a class of weights 0 has the cosine 0.
        embeddings: [b, d], of unit length.
        classes: [b], numbers of columns, 0 to c - 1: they are not checked, and the loss is NaN beyond.
        temperature: what cosines are divided by; the smaller, the more the nearest classes count.

    Raises:
        ValueError: kernel or embeddings are no matrices or differ in width, classes are not b integers, or
            temperature is a number that is not above 0.

    Source: Zhai, Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019, section 3,
    whose temperature this is.
    """
    w = as_matrix("kernel", kernel)
    x = as_matrix("embeddings", embeddings, len(w))
    scalar = as_scalar("temperature", temperature)
    if not isinstance(temperature, jax.Array) and temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    return _softmax(w, x, _as_numbers(classes, len(x)), scalar)


def _as_numbers(classes: Int[AnyArray, " b"], length: int) -> Int[AnyArray, " b"]:
    """The checked numbers of classes, which are columns of the classifier and so not numbered anew."""
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
    import optax  # slow to import, and needed here only

    of_images = optax.softmax_cross_entropy_with_integer_labels(
        cosines / temperature, jnp.where(known, y, 0).astype(jnp.int32)
    )
    return nan_unless_finite(jnp.sum(of_images) / len(x), w, x, temperature, fine=jnp.all(known))
