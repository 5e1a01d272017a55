"""The train state: all that a step depends on, beside its batch."""

from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from pddm_jax.losses.objectives import Logs
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.pddm.unit import PDDM
from pddm_jax.sharding import replicated
from pddm_jax.types import Batch


@flax.struct.dataclass
class TrainState:
    """All that a step depends on, beside its batch."""

    step: Int[Array, ""]
    params: dict[str, PyTree]  # {"network": ..., "unit": ...}, and "classifier" where there is one
    batch_stats: PyTree
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables that the network is applied with."""
        return {"params": self.params["network"], "batch_stats": self.batch_stats}


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Logs]]


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
