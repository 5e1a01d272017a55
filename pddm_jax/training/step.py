"""Training steps: the jitted step, the loop over steps, and the jitted forward pass that embeds images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

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

MOST_PENDING = 1024
"""Steps whose logs are kept on the device, at most."""


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


class Diverged(FloatingPointError):
    """The logs of a step are not finite.

    Attributes:
        step: the first one since logs were last fetched.
        values: of its logs, those that are not finite.
    """

    def __init__(self, step: int, values: dict[str, float]) -> None:
        shown = ", ".join(f"{name} = {value}" for name, value in values.items())
        super().__init__(f"training diverged at step {step}: {shown}")
        self.step, self.values = step, values


def _ignore(step: int, logs: dict[str, float]) -> None:
    del step, logs


@dataclass
class PendingLogs:
    """Logs of steps that the device may not have made yet, the last one's among them."""

    observe: Callable[[int, dict[str, float]], None]
    last: int  # step of the newest
    pending: list[Logs] = field(default_factory=list)
    seen: int = 0  # the last step that was observed

    def add(self, step: int, logs: Logs) -> None:
        """Keep a step's logs; at times wait for the device, so that they stay few."""
        self.pending.append(logs)
        self.last = step
        if len(self.pending) >= MOST_PENDING:
            self()

    def __call__(self) -> dict[str, float]:
        """Wait for the device and return the last step's logs; Diverged where a step's were not finite."""
        fetched = jax.device_get(self.pending)
        for step, values in enumerate(fetched, self.last - len(fetched) + 1):
            bad = {name: float(value) for name, value in values.items() if not np.isfinite(value)}
            if bad:
                raise Diverged(step, bad)
            if step > self.seen:
                self.observe(step, {name: float(value) for name, value in values.items()})
                self.seen = step
        del self.pending[:-1]
        return {name: float(value) for name, value in fetched[-1].items()}


def fit(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Batch],
    steps: int,
    after_step: Callable[[int, TrainState, Callable[[], dict[str, float]]], bool],
    observe: Callable[[int, dict[str, float]], None] = _ignore,
) -> TrainState:
    """Step until `steps`, or until `after_step(step, state, logs)` says to stop.

    `logs()` waits for the device and returns this step's logs as floats. It raises Diverged, a
    FloatingPointError that names the first step since the last call whose logs were not finite, so
    that nothing is written down or saved beyond a step that went wrong. With it `observe(step, logs)` is
    called for every step since the last call, once, in order.
    """
    logs = PendingLogs(observe, int(state.step))
    for step in range(logs.last + 1, steps + 1):
        state, values = train_step(state, next(batches))
        logs.add(step, values)
        if after_step(step, state, logs):
            break
    return state


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
