"""Zero-shot learning: ConSE, ridge regression and DeViSE, maps from embeddings to class descriptions.

Each learns from the images of seen classes: embeddings [n, d], for each the row of its class, and class
descriptions [c, a], scaled to unit length. It returns a function from embeddings [m, d] to vectors [m, a],
which is a pytree that passes through `jit`. The cosine of that vector with the description of any class,
seen or not, is the score of the class; `zero_shot_metrics.py` ranks classes by it.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_finite_matrix
from pddm_jax.numerics import l2_normalize, squared_distances
from pddm_jax.types import AnyArray, Scalar

SemanticMap = Callable[[Float[Array, "m d"]], Float[Array, "m a"]]
"""A map from embeddings into the space of the descriptions."""

BATCH = 1024
"""Images in a step of `ranking`; all if there are fewer."""


@flax.struct.dataclass
class Mixture:
    """The descriptions of the `top` nearest means, weighted by softmax(-|x - mean|^2 / temperature)."""

    means: Float[Array, "c d"]
    descriptions: Float[Array, "c a"]
    temperature: Scalar
    top: int = flax.struct.field(pytree_node=False)

    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m a"]:
        """Map embeddings into the space of the descriptions."""
        # Centered products find the nearest means; their distances come from differences, which round less.
        center = jnp.mean(self.means, axis=0)
        means = self.means - center
        closeness = 2 * (x - center) @ means.T - jnp.sum(jnp.square(means), axis=-1)
        classes = jax.lax.top_k(closeness, self.top)[1]
        logits = -squared_distances(x[:, None], self.means[classes]) / self.temperature
        return jnp.einsum("mt,mta->ma", jax.nn.softmax(logits), self.descriptions[classes])


@flax.struct.dataclass
class Affine:
    """x W + b."""

    kernel: Float[Array, "d a"]
    bias: Float[Array, " a"]

    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m a"]:
        """Map embeddings into the space of the descriptions."""
        return x @ self.kernel + self.bias


def conse(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    descriptions: Float[AnyArray, "c a"],
    top: int,
    temperature: float,
) -> Mixture:
    """ConSE: the descriptions of the `top` likeliest seen classes, mixed by their probabilities.

        f(x) = sum_t p_t s_t / sum_t p_t,    p = softmax_c(-|x - mu_c|^2 / temperature)

    over the T classes of highest p, with mu_c the mean embedding of class c and |s_t| = 1. The paper takes
    p from the last layer of a network that was trained to classify. An embedding has none, so p is the
    softmax over class means of Mensink et al. (PAMI 2013, equation 3), with a temperature.

    Args:
        embeddings: [n, d].
        labels: [n], for each image the row of its class in `descriptions`.
        descriptions: [c, a]; classes without an image are ignored.
        top: T; all classes if there are fewer.
        temperature: temperature of the softmax, a squared distance.

    Raises:
        ValueError: a shape does not fit, a label is not a row, a number is not finite; there is no image,
            top is below 1, or the temperature not above 0.

    Source: Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014.
    """
    x, rows, s = _checked(embeddings, labels, descriptions)
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    _check_above_0("temperature", temperature)
    present, codes, counts = np.unique(rows, return_inverse=True, return_counts=True)
    means = jax.ops.segment_sum(x, jnp.asarray(codes), len(present)) / counts[:, None]
    return Mixture(means, l2_normalize(s[present]), temperature, min(top, len(present)))


def ridge(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    descriptions: Float[AnyArray, "c a"],
    weight: float,
) -> Affine:
    """Ridge regression from embeddings to the descriptions of their classes, in closed form.

        f(x) = W^T (x - mean x) + mean s,    W = argmin 1/n sum_i |f(x_i) - s_i|^2 + weight |W|^2

    with |s_i| = 1.

    Args:
        embeddings: [n, d].
        labels: [n], for each image the row of its class in `descriptions`.
        descriptions: [c, a].
        weight: weight of |W|^2.

    Raises:
        ValueError: a shape does not fit, a label is not a row, a number is not finite; there is no image,
            or weight is not above 0.

    Source: Hoerl, Kennard, "Ridge Regression", Technometrics 1970; into a semantic space: Palatucci et al.,
    "Zero-Shot Learning with Semantic Output Codes", NIPS 2009.
    """
    x, rows, s = _checked(embeddings, labels, descriptions)
    _check_above_0("weight", weight)
    return _ridge(x, rows, l2_normalize(s), weight)


@jax.jit
def _ridge(
    x: Float[Array, "n d"], rows: Int[Array, " n"], s: Float[Array, "c a"], weight: Scalar
) -> Affine:
    n, d = x.shape
    mean, x = x.mean(axis=0), x - x.mean(axis=0)
    bias = jnp.bincount(rows, length=len(s)) @ s / n
    covariance = x.T @ x / n + weight * jnp.eye(d)
    moments = jax.ops.segment_sum(x, rows, len(s)).T @ s / n  # sum_i x_i s_i^T, without [n, a]
    kernel = jax.scipy.linalg.solve(covariance, moments, assume_a="pos")
    return Affine(kernel, bias - mean @ kernel)


def ranking(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    descriptions: Float[AnyArray, "c a"],
    margin: float,
    learning_rate: float,
    steps: int,
    seed: int,
) -> Affine:
    """DeViSE: a linear map that ranks the description of the right class before all others, by a margin.

        f(x) = x W,    loss = mean_i sum_{j != y_i} [margin - s_{y_i} . f(x_i) + s_j . f(x_i)]+

    with |s_j| = 1 and j over the seen classes. The loss is convex in W, which starts at 0; Adam with cosine
    decay, on batches drawn with replacement. The paper then trains the network as well, which is frozen
    here, and replaces the sum by its first term in a random order of j that is not 0.

    Args:
        embeddings: [n, d].
        labels: [n], for each image the row of its class in `descriptions`.
        descriptions: [c, a].
        margin: 0.1 in the paper.
        learning_rate: of Adam, before its decay.
        steps: number of steps.
        seed: seed of the batches.

    Raises:
        ValueError: a shape does not fit, a label is not a row, a number is not finite; there is no image,
            or margin, learning_rate or steps is not above 0.

    Source: Frome et al., "DeViSE: A Deep Visual-Semantic Embedding Model", NIPS 2013, equation 1.
    """
    x, rows, s = _checked(embeddings, labels, descriptions)
    for name, value in (("margin", margin), ("learning_rate", learning_rate), ("steps", steps)):
        _check_above_0(name, value)
    present, codes = np.unique(rows, return_inverse=True)
    return _ranking(
        x,
        jnp.asarray(codes),
        l2_normalize(s[present]),
        margin=margin,
        learning_rate=learning_rate,
        steps=steps,
        seed=seed,
    )


@partial(jax.jit, static_argnames="steps")
def _ranking(
    x: Float[Array, "n d"],
    rows: Int[Array, " n"],
    s: Float[Array, "c a"],
    margin: Scalar,
    learning_rate: Scalar,
    steps: int,
    seed: Int[Array, ""],
) -> Affine:
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    kernel = jnp.zeros((x.shape[1], s.shape[1]))
    key = jax.random.key(seed)

    def step(
        state: tuple[Array, optax.OptState], number: Int[Array, ""]
    ) -> tuple[tuple[Array, optax.OptState], None]:
        kernel, moments = state
        batch = jax.random.randint(jax.random.fold_in(key, number), (min(BATCH, len(x)),), 0, len(x))
        gradient = jax.grad(ranking_loss)(kernel, x[batch], rows[batch], s, margin)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(kernel, updates), moments), None

    (kernel, _), _ = jax.lax.scan(step, (kernel, optimizer.init(kernel)), jnp.arange(steps))
    return Affine(kernel, jnp.zeros(s.shape[1]))


def ranking_loss(
    kernel: Float[Array, "d a"],
    x: Float[Array, "b d"],
    rows: Int[Array, " b"],
    s: Float[Array, "c a"],
    margin: Scalar,
) -> Float[Array, ""]:
    """The loss of `ranking`, for descriptions of unit length."""
    scores = x @ (kernel @ s.T)  # in this order, [b, a] is not needed
    right = jnp.take_along_axis(scores, rows[:, None], axis=1)
    hinges = jax.nn.relu(margin - right + scores)
    return jnp.mean(jnp.sum(hinges, axis=1) - margin)  # the hinge of the right class itself is the margin


def checked_rows(
    name: str, labels: Int[AnyArray, " n"], length: int, descriptions: int
) -> Int[np.ndarray, " n"]:
    """Labels as row numbers of `descriptions` descriptions; ValueError if they are not `length` of them."""
    rows = np.asarray(labels)
    if rows.shape != (length,) or rows.dtype.kind not in "iu":
        raise ValueError(f"{name} must be {length} integers, got {rows.dtype} of shape {rows.shape}")
    wrong = rows[(rows < 0) | (rows >= descriptions)]
    if len(wrong):
        raise ValueError(
            f"{name} must be row numbers of the {descriptions} descriptions, counted from 0, got {wrong[0]}"
        )
    return rows.astype(np.int32)


def _checked(
    embeddings: Float[AnyArray, "n d"], labels: Int[AnyArray, " n"], descriptions: Float[AnyArray, "c a"]
) -> tuple[Float[Array, "n d"], Int[np.ndarray, " n"], Float[Array, "c a"]]:
    x = as_finite_matrix("embeddings", embeddings)
    s = as_finite_matrix("descriptions", descriptions)
    if not len(x):
        raise ValueError("embeddings must hold at least one image of a seen class")
    return x, checked_rows("labels", labels, len(x), len(s)), s


def _check_above_0(name: str, value: int | float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")
