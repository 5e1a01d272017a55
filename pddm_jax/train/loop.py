"""The train state, its step, and the loop that runs it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from pddm_jax.checks import check_choice
from pddm_jax.losses.objectives import Logs, Loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.pddm.unit import PDDM
from pddm_jax.types import Batch

Shares = TypeVar("Shares", bound=PyTree)

SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")


@flax.struct.dataclass
class TrainState:
    """All that a step depends on, beside its batch."""

    step: Int[Array, ""]
    params: dict[str, PyTree]  # {"network": ..., "unit": ...}, and "classifier" where there is one
    batch_stats: PyTree
    opt_state: optax.OptState


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Logs]]


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or those given, along one axis, `data`, by process.

    So that the share of a batch that a process holds is one run of its rows; `jax.make_mesh` would
    order the devices of a pod by how they are wired.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on each device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The first axis shared out over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def make_optimizer(
    name: str,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    clip_norm: float,
    warmup: int,
    unit_factor: float,
    backbone_factor: float,
    steps: int,
) -> optax.GradientTransformation:
    """The optimiser: clipping by global norm, weight decay on kernels only, a schedule over `steps`.

    The rate rises over the first `warmup` steps. The PDDM unit learns at `unit_factor` times the rate,
    below 1, so that the score does not forget distance before the embedding is worth more; the
    network's backbone at `backbone_factor` times the rate, below 1 where it is pretrained.

    Raises:
        ValueError: the name or the schedule is unknown.
    """
    check_choice("optimizer.name", name, OPTIMIZERS)
    check_choice("optimizer.schedule", schedule, SCHEDULES)
    warm = optax.linear_schedule(1 / (warmup + 1), 1.0, warmup)
    main = (
        optax.cosine_decay_schedule(learning_rate, steps)
        if schedule == "cosine"
        else optax.constant_schedule(learning_rate)
    )

    def rate(step: Int[Array, ""]) -> Float[Array, ""]:
        return warm(step) * main(step)

    def kernels(params: PyTree) -> PyTree:
        return jax.tree.map(lambda x: x.ndim > 1, params)

    if name == "adamw":
        descent = optax.adamw(rate, weight_decay=weight_decay, mask=kernels)
    else:
        descent = optax.chain(
            optax.add_decayed_weights(weight_decay, kernels), optax.sgd(rate, momentum=0.9)
        )

    def by_part(updates: PyTree, params: PyTree) -> PyTree:
        del params
        return jax.tree_util.tree_map_with_path(lambda path, x: factor(path) * x, updates)

    def factor(path: tuple[jax.tree_util.DictKey, ...]) -> float:
        names = tuple(key.key for key in path)
        if names[:1] == ("unit",):
            return unit_factor
        return backbone_factor if names[:2] == ("network", "backbone") else 1.0

    return optax.chain(optax.clip_by_global_norm(clip_norm), descent, optax.stateless(by_part))


def init_state(
    network: EmbeddingNetwork,
    unit: PDDM,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
    mesh: Mesh,
    classes: int = 0,
) -> TrainState:
    """A fresh state, replicated over the mesh; with a classifier of so many classes unless they are 0."""

    def init(key: Array) -> TrainState:
        network_key, unit_key = jax.random.split(key)
        images = jnp.zeros((1, *image_shape), jnp.uint8)
        embeddings, variables = network.init_with_output(network_key, images)
        unit_params = unit.init(unit_key, embeddings, embeddings)["params"]
        params = {"network": variables["params"], "unit": unit_params}
        if classes:
            shape = embeddings.shape[1], classes
            kernel = nn.initializers.lecun_normal()(jax.random.fold_in(key, 2), shape)
            params["classifier"] = {"kernel": kernel}
        batch_stats = variables.get("batch_stats", {})
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))

    return jax.jit(init, out_shardings=replicated(mesh))(jax.random.key(seed))


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
        lambda state, images: network.apply(
            {"params": state.params["network"], "batch_stats": state.batch_stats}, images
        ),
        in_shardings=(replicated(mesh), sharded(mesh)),
        out_shardings=replicated(mesh),
    )

    def embed(state: TrainState, batches: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.asarray(forward(state, x)) for x in global_batches(batches, mesh)])

    return embed


def global_batches(batches: Iterable[Shares], mesh: Mesh) -> Iterator[Shares]:
    """Each process's share of a batch as one global batch, sharded over the mesh."""
    for batch in batches:
        yield jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharded(mesh), x), batch)


class Diverged(FloatingPointError):
    """The logs of a step are not finite.

    Attributes:
        step: the first one since logs were last fetched.
        values: of its logs, those that are not finite.
    """

    def __init__(self, step: int, values: dict[str, float]) -> None:
        super().__init__(f"training diverged at step {step}: {values}")
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


MOST_PENDING = 1024
"""Steps whose logs are kept on the device, at most."""


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
