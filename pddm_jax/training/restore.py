"""The trained network of a run, restored from its workdir."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from pddm_jax.data.transforms import AUGMENT, Transform, make_transform
from pddm_jax.networks import EmbeddingNetwork, make_network
from pddm_jax.pddm.unit import PDDM
from pddm_jax.system.console import print_line
from pddm_jax.training.checkpoint_files import restore_chosen
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.provenance import digest
from pddm_jax.training.run_files import NETWORK, REWRITE, Config, read_results
from pddm_jax.training.state import TrainState, init_state


class Trained(NamedTuple):
    """A network and its state at some step."""

    network: EmbeddingNetwork
    state: TrainState


def transform_of(data: Mapping[str, Any]) -> Transform:
    """The transform that the group `data` of a config describes."""
    fields = {field: data[field] for of_kind in AUGMENT.values() for field in of_kind}
    return make_transform(data["augment"], data["image_size"], **fields)


def network_of(network: Mapping[str, Any]) -> EmbeddingNetwork:
    """The network that the group `network` of a config describes."""
    return make_network(**{field: network[field] for field in NETWORK})


def restore_trained(
    workdir: Path,
    config: Config,
    image_shape: tuple[int, ...],
    mesh: Mesh,
    network: EmbeddingNetwork | None = None,
    quiet: bool = False,
) -> Trained:
    """The network at the best checkpoint by validation, or else at the last one.

    All arrays of the checkpoint are verified. If the optimizer was given from Python, its arrays are not
    read.

    Args:
        workdir: of the run; if the run has not finished, its newest checkpoint is read.
        config: the config of the run.
        image_shape: of the input of the network: height, width, channels.
        mesh: the state is replicated over it.
        network: the network, if it was given from Python; None: the one that the config names.
        quiet: print nothing about damaged checkpoints.

    Raises:
        FileNotFoundError: there is no checkpoint yet.
        ValueError: the network was trained on images of another shape, the checkpoint of the reported
            results is damaged, or the network was given from Python and is missing here.
    """
    if list(image_shape) != config.get("image_shape"):
        raise ValueError(
            f"{workdir} was trained on images of shape {config.get('image_shape')}, not {[*image_shape]}"
        )
    own = config.get("python", {}).get("network")
    if own and network is None:
        raise ValueError(
            f"{workdir} was trained with a network given from Python, {own}: load it by "
            "pddm_jax.load(workdir, network=...)"
        )
    try:
        network, width = network or network_of(config["network"]), config["network"]["unit_dim"]
        classes = config.get("classes", 0)  # of the classifier; 0: none
        unit, seed, optimizer = PDDM(width, width), config["seed"], _optimizer_of(config)
        fresh = init_state(network, unit, optimizer, image_shape, seed, mesh, classes)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        path, reason = workdir / "config.json", " ".join(str(error).split())
        raise ValueError(f"{path} is damaged, and describes no network: {reason}; {REWRITE}") from error
    scored = bool(config["data"]["val_class_fraction"])
    weights_only = _is_own_optimizer(config)
    state, reason = restore_chosen(workdir / "checkpoints", fresh, scored, weights_only)
    if (workdir / "results.json").exists():
        _check_reported(workdir, state, reason)
    if reason and not quiet and jax.process_index() == 0:
        print_line(f"{reason}; step {int(state.step)} is taken instead")
    return Trained(network, state)


def _is_own_optimizer(config: Config) -> bool:
    """Whether the optimizer was given from Python."""
    return bool(config.get("python", {}).get("optimizer"))


def _optimizer_of(config: Config) -> optax.GradientTransformation:
    """The optimizer that the config describes; the identity if it was given from Python."""
    if _is_own_optimizer(config):
        return optax.identity()
    return make_optimizer(**config["optimizer"], steps=config["train"]["steps"])


def _check_reported(workdir: Path, state: TrainState, reason: str) -> None:
    """Raise a ValueError if results.json reports other parameters."""
    if digest(state) != read_results(workdir)["params_sha256"]:
        raise ValueError(
            f"{workdir / 'results.json'} reports other parameters than the checkpoint of step "
            f"{int(state.step)}{f' ({reason})' if reason else ''}: delete results.json and repeat the "
            "command of the run, which evaluates it again"
        )
