"""The jitted training step, and the jitted forward pass that embeds images."""

from collections.abc import Callable, Iterable

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from pddm_jax.losses.objectives import Logs, Loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.sharding import global_batches, replicated, sharded
from pddm_jax.training.state import TrainState, TrainStep
from pddm_jax.types import Batch


def loss_of_batch(
    network: EmbeddingNetwork, loss: Loss, mesh: Mesh, params: PyTree, batch_stats: PyTree, batch: Batch
) -> tuple[Array, tuple[PyTree, Logs, Array]]:
    """The loss of a batch in training; and the batch statistics after it, its logs, its embeddings."""
    embeddings, updated = network.apply(
        {"params": params["network"], "batch_stats": batch_stats},
        batch.images,
        train=True,
        mutable=["batch_stats"],
    )
    embeddings, labels = jax.lax.with_sharding_constraint((embeddings, batch.labels), replicated(mesh))
    value, logs = loss(params, embeddings, labels)
    return value, (updated.get("batch_stats", {}), logs, embeddings)


def make_train_step(
    network: EmbeddingNetwork, loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """The jitted step: (state, global batch) -> (state, logs); the state is donated.

    The network runs on each device's share of the batch; the embeddings are then gathered, since
    hard pairs are looked for in the whole batch.
    """

    def loss_fn(params: PyTree, batch_stats: PyTree, batch: Batch) -> tuple[Array, tuple[PyTree, Logs]]:
        value, (updated, logs, _) = loss_of_batch(network, loss, mesh, params, batch_stats, batch)
        return value, (updated, logs)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
        (value, (batch_stats, logs)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.batch_stats, batch
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        logs = {"loss": value, "gradient_norm": optax.tree.norm(gradients), **logs}
        logs["parameter_norm"] = optax.tree.norm(params)
        return TrainState(state.step + 1, params, batch_stats, opt_state), logs

    shardings = replicated(mesh), sharded(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=shardings, out_shardings=replicated(mesh))


def make_embed(
    network: EmbeddingNetwork, mesh: Mesh
) -> Callable[[TrainState, Iterable[np.ndarray]], Float[np.ndarray, "n d"]]:
    """The function (state, batches of images) -> embeddings of all of them, compiled once for a size.

    Every process passes its share of each batch, as `ordered_batches` gives it, and gets all embeddings.
    """
    forward = jax.jit(
        lambda state, images: network.apply(state.variables, images),
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=replicated(mesh),
    )

    def embed(state: TrainState, batches: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(forward(state, x)) for x in global_batches(batches, mesh)])

    return embed
