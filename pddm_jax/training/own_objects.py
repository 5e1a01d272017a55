"""Networks, optimizers and objectives given as Python objects: checks, and their text in config.json."""

import inspect
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.errors import FlaxError, InvalidRngError
from ml_collections import FrozenConfigDict

from pddm_jax.networks import EmbeddingNetwork, embedding_network
from pddm_jax.system.console import one_line
from pddm_jax.training.run_files import Config
from pddm_jax.training.setup import Training


def check_module(network: object, other: str = "") -> None:
    """Raise a ValueError unless the argument `network` is a Flax module."""
    if not isinstance(network, nn.Module):
        todo = f": pass {network.__name__}()" if isinstance(network, type) else ""
        raise ValueError(f"network must be {other}a flax.linen.Module, got {kind_of(network)}{todo}")


def own_network(config: Config | FrozenConfigDict, network: nn.Module) -> EmbeddingNetwork:
    """A module as the network of a run: with the layer of embeddings that the config describes."""
    if isinstance(network, EmbeddingNetwork):
        return network
    names = "embedding_dim", "dtype", "freeze_batch_stats", "microbatches"
    return embedding_network(network, **{name: config["network"][name] for name in names})


def check_same_module(workdir: Path, config: Config, network: nn.Module) -> None:
    """Raise a ValueError unless a run was trained with a module of the same attributes."""
    theirs, ours = config.get("python", {}).get("network"), describe(network)
    if theirs is None:
        name = config["network"]["name"]
        raise ValueError(f"{workdir} was trained with network {name!r}: load it without a network")
    if theirs != ours:
        raise ValueError(f"{workdir} was trained with another network: {theirs}, got {ours}")


def check_loss(training: Training) -> None:
    """Raise a ValueError unless the objective returns a scalar and a dict of scalars."""
    p, k = training.config.data.classes_per_batch, training.config.data.images_per_class
    images = jax.ShapeDtypeStruct((p * k, *training.image_shape), jnp.uint8)
    try:
        state = jax.eval_shape(training.fresh_state)
        embeddings = jax.eval_shape(training.recipe.network.apply, state.variables, images)
        in_training = partial(training.recipe.network.apply, train=True, mutable=["batch_stats"])
        jax.eval_shape(in_training, state.variables, images)
    except InvalidRngError as error:
        raise ValueError(
            "network must not draw random numbers, as dropout does: a training step depends only on its "
            "state and its batch"
        ) from error
    except (TypeError, ValueError, FlaxError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"network does not take images of shape {[*images.shape]}: {reason}") from error
    batch = jax.ShapeDtypeStruct((p * k, embeddings.shape[1]), embeddings.dtype)
    labels = jax.ShapeDtypeStruct((p * k,), jnp.int32)
    signature = inspect.signature(training.recipe.loss)
    try:
        signature.bind(state.params, batch, labels)
    except TypeError as error:
        raise ValueError(
            f"objective must take the arguments (params, embeddings, labels), but takes {signature}"
        ) from error
    found = jax.eval_shape(training.recipe.loss, state.params, batch, labels)
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)
    if not pair or any(getattr(x, "shape", None) != () for x in (found[0], *found[1].values())):
        raise ValueError(
            "objective must return a tuple of a scalar loss and a dict of scalars, got "
            f"{one_line(str(jax.tree.map(_described, found)))}"
        )


def _described(value: object) -> str:
    """An array by its shape, for errors."""
    shape = getattr(value, "shape", None)
    return "a scalar" if shape == () else f"shape {[*shape]}" if shape else str(value)


def describe(value: object) -> str:
    """What config.json holds of an object: the repr of a module, the name of a function."""
    if isinstance(value, nn.Module):
        return " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).split())
    if isinstance(value, optax.GradientTransformation):
        return _updates(value)
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _updates(optimizer: optax.GradientTransformation) -> str:
    """What tells optimizers apart that have a state of the same structure: the size of their updates."""
    params = {"w": jnp.ones((2, 2))}
    try:
        state, sizes = optimizer.init(params), []
        for _ in range(3):
            updates, state = optimizer.update(params, state, params)
            sizes.append(f"{float(optax.tree.norm(updates)):.3g}")
    except (TypeError, ValueError, KeyError, AttributeError):  # it is for parameters of other names
        return "given"
    return f"updates of norm {', '.join(sizes)} for gradients of ones"


def kind_of(value: object) -> str:
    """The type of a value, or its name if it is a class, for errors."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
