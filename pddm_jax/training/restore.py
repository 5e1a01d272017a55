"""A trained network, out of the folder that its run left."""

from pathlib import Path
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh

from pddm_jax.data.transforms import AUGMENT, Transform, make_transform
from pddm_jax.networks import EmbeddingNetwork, make_network
from pddm_jax.pddm.unit import PDDM
from pddm_jax.system.console import tell
from pddm_jax.system.digests import digest_of
from pddm_jax.training.checkpoint_files import restore_chosen
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.run_files import NETWORK, REWRITE, Config, read_results
from pddm_jax.training.state import TrainState, init_state


class Trained(NamedTuple):
    """A network and its state at some step."""

    network: EmbeddingNetwork
    state: TrainState


def transform_of(config: Config) -> Transform:
    """What the run did to images."""
    fields = {field: config["data"][field] for of_kind in AUGMENT.values() for field in of_kind}
    return make_transform(config["data"]["augment"], config["data"]["image_size"], **fields)


def network_of(config: Config) -> EmbeddingNetwork:
    """The network of the run."""
    return make_network(**{field: config["network"][field] for field in NETWORK})


def load(
    workdir: Path,
    config: Config,
    image_shape: tuple[int, ...],
    mesh: Mesh,
    network: EmbeddingNetwork | None = None,
    quiet: bool = False,
) -> Trained:
    """The network at the checkpoint that validation classes chose, or else at the last one.

    All arrays of the checkpoint are verified; of a run whose optimizer was given from Python, all but the
    optimizer's, which are not read.

    Args:
        workdir: of the run; while it goes on its checkpoint so far is taken.
        config: its fields.
        image_shape: of what is given to the network: height, width, channels.
        mesh: over which the state is replicated.
        network: of a run whose network was given from Python; None: the one that the config names.
        quiet: print nothing of damaged checkpoints that are passed over.

    Raises:
        FileNotFoundError: there is no checkpoint yet.
        ValueError: the network was trained on images of another shape, or the checkpoint that the run
            was measured by is damaged; or the network must be given.
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
        network, width = network or network_of(config), config["network"]["unit_dim"]
        classes = config.get("classes", 0)  # of the classifier; 0: none
        unit, seed, optimizer = PDDM(width, width), config["seed"], _optimizer_of(config)
        fresh = init_state(network, unit, optimizer, image_shape, seed, mesh, classes)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        path, told = workdir / "config.json", " ".join(str(error).split())
        raise ValueError(f"{path} is damaged, no network can be made from it: {told}; {REWRITE}") from error
    scored = bool(config["data"]["val_class_fraction"])
    weights_only = _is_own_optimizer(config)
    state, told = restore_chosen(workdir / "checkpoints", fresh, scored, weights_only)
    if (workdir / "results.json").exists():
        _check_reported(workdir, state, told)
    if told and not quiet and jax.process_index() == 0:
        tell(f"{told}; step {int(state.step)} is taken instead")
    return Trained(network, state)


def _is_own_optimizer(config: Config) -> bool:
    """Whether the optimizer was given from Python."""
    return bool(config.get("python", {}).get("optimizer"))


def _optimizer_of(config: Config) -> optax.GradientTransformation:
    """The optimizer of the run; one without a state if it was given from Python."""
    if _is_own_optimizer(config):
        return optax.identity()
    return make_optimizer(**config["optimizer"], steps=config["train"]["steps"])


def _check_reported(workdir: Path, state: TrainState, told: str) -> None:
    """Refuse parameters other than those that results.json is about."""
    if digest_of(state.params, state.batch_stats) != read_results(workdir)["params_sha256"]:
        raise ValueError(
            f"{workdir / 'results.json'} reports other parameters than the checkpoint of step "
            f"{int(state.step)}{f' ({told})' if told else ''}: delete results.json and repeat the command "
            "of the run, which evaluates it again"
        )
