"""Linear probe on frozen embeddings: multinomial logistic regression, fitted by L-BFGS."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_finite_matrix
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.types import AnyArray, Scalar

BLOCK = 4096
"""Images whose logits are held in memory at a time."""

Weights = tuple[Float[Array, "d c"], Float[Array, " c"]]


class LinearProbe(NamedTuple):
    """A linear classifier: logits x W + b."""

    classes: Int[np.ndarray, " c"]  # ascending
    kernel: Float[Array, "d c"]
    bias: Float[Array, " c"]

    def top_classes(self, embeddings: Float[AnyArray, "n d"], k: int = 1) -> Int[np.ndarray, "n k"]:
        """The k classes of highest logit for each image, best first; ties go to the lowest class.

        Raises:
            ValueError: the embeddings are not finite or of another width, or k is out of its range.
        """
        x = as_finite_matrix("embeddings", embeddings, len(self.kernel))
        ones = jnp.ones((len(x), 1))
        extended = jnp.concatenate([self.kernel, self.bias[None]]).T
        index = nearest(jnp.concatenate([x, ones], axis=1), extended, k, _products)[1]
        return self.classes[np.asarray(index)]


def _products(x: Float[Array, "a d"], y: Float[Array, "b d"]) -> Float[Array, "a b"]:
    return jnp.matmul(x, y.T, precision="highest")


def fit(
    embeddings: Float[AnyArray, "n d"],
    labels: Int[np.ndarray, " n"],
    weight_decay: float,
    steps: int,
    tolerance: float = 1e-5,
) -> LinearProbe:
    """Multinomial logistic regression, the minimum of

        1/n sum_i -log softmax(x_i W + b)[y_i] + weight_decay / 2 |W|^2

    by L-BFGS on all images, with the logits of one block in memory at a time.

    Args:
        embeddings: [n, d].
        labels: [n], integers.
        weight_decay: above 0, so that the minimum is unique.
        steps: maximum number of steps.
        tolerance: norm of the gradient at which the fit ends earlier.

    Raises:
        ValueError: shapes do not fit, an embedding is not finite, or a number is out of its range.

    Source: Liu, Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", 1989; the
    optimizer is Optax's.
    """
    x = as_finite_matrix("embeddings", embeddings)
    if labels.shape != x.shape[:1] or not len(x):
        raise ValueError(f"labels must have shape [{len(x)}], of at least one image, got {labels.shape}")
    if not 0 < weight_decay < np.inf or steps < 1:
        raise ValueError(
            f"weight_decay must be above 0 and finite and steps at least 1, got {weight_decay} and {steps}"
        )
    classes, codes = np.unique(labels, return_inverse=True)
    size = min(BLOCK, len(x))
    fill = -len(x) % size
    blocks = jnp.pad(x, ((0, fill), (0, 0))).reshape(-1, size, x.shape[1])
    rows = jnp.pad(jnp.asarray(codes, jnp.int32), (0, fill), constant_values=-1).reshape(-1, size)
    kernel, bias = _fit(
        blocks,
        rows,
        count=len(x),
        classes=len(classes),
        weight_decay=weight_decay,
        steps=steps,
        tolerance=tolerance,
    )
    return LinearProbe(classes, kernel, bias)


@partial(jax.jit, static_argnames=("classes", "steps"))
def _fit(
    blocks: Float[Array, "k b d"],
    rows: Int[Array, "k b"],
    count: Int[Array, ""],
    classes: int,
    weight_decay: Scalar,
    steps: int,
    tolerance: Scalar,
) -> Weights:
    @jax.checkpoint
    def block_loss(weights: Weights, x: Float[Array, "b d"], y: Int[Array, " b"]) -> Float[Array, ""]:
        logits = jnp.matmul(x, weights[0], precision="highest") + weights[1]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(y, 0))
        return jnp.sum(jnp.where(y < 0, 0, losses)) / count

    def loss(weights: Weights) -> Float[Array, ""]:
        start = weight_decay / 2 * jnp.sum(jnp.square(weights[0]))
        return jax.lax.scan(
            lambda total, block: (total + block_loss(weights, *block), None), start, (blocks, rows)
        )[0]

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Weights, optax.OptState]) -> tuple[Weights, optax.OptState]:
        weights, state = carry
        value, gradient = value_and_grad(weights, state=state)
        updates, state = optimizer.update(
            gradient, state, weights, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(weights, updates), state

    def unfinished(carry: tuple[Weights, optax.OptState]) -> Array:
        count = optax.tree.get(carry[1], "count")
        gradient = optax.tree.get(carry[1], "grad")
        return (count == 0) | ((count < steps) & (optax.tree.norm(gradient) > tolerance))

    weights = jnp.zeros((blocks.shape[2], classes)), jnp.zeros(classes)
    return jax.lax.while_loop(unfinished, step, (weights, optimizer.init(weights)))[0]
