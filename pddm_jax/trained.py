"""A trained network, out of the folder that its run left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from pddm_jax.console import tell
from pddm_jax.data.transforms import AUGMENT, Transform, make_transform
from pddm_jax.digests import digest_of, digest_of_json
from pddm_jax.files import read_object
from pddm_jax.networks import EmbeddingNetwork, make_network
from pddm_jax.pddm import PDDM
from pddm_jax.saved import config_in, restore_chosen
from pddm_jax.training import TrainState, init_state, make_optimizer

Config = Mapping[str, Any]

NETWORK = ("name", "embedding_dim", "freeze_statistics", "dtype", "remat", "parts")
"""Fields of `network` that make it; the others are of the unit and of the first weights."""

GROUPS = ("data", "network", "objective", "optimizer", "train")
"""Groups of fields that every config has."""


class Trained(NamedTuple):
    """A network and its state at some step."""

    network: EmbeddingNetwork
    state: TrainState


def read_config(workdir: Path) -> Config:
    """The fields of the run.

    Raises:
        FileNotFoundError: there is no run that has made a step.
        ValueError: they are damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no run: it has no config.json")
    todo = "the run's own command writes it again from the last checkpoint; else choose another workdir"
    config = read_object(path, todo)
    groups = [name for name in GROUPS if not isinstance(config.get(name), dict)]
    if groups:
        raise ValueError(f"{path} is damaged: it has no fields {', '.join(groups)}; {todo}")
    known = config_in(workdir / "checkpoints")
    # A run that is extended has written its new fields of `train` before its next checkpoint.
    if known is not None and {**known, "train": None} != {**config, "train": None}:
        tell(f"{path} differs from what the last checkpoint knows of the run; that is taken")
        return known
    return config


def read_results(workdir: Path) -> dict[str, Any]:
    """What the run ended with.

    Raises:
        FileNotFoundError: it has not ended.
        ValueError: it is damaged.
    """
    path = workdir / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no finished run: it has no results.json")
    todo = "delete it and give the run's command again, which measures anew from the last checkpoint"
    results = read_object(path, todo)
    kinds = {"evaluation": str, "protocol": dict, "steps": int, "params_sha256": str}
    odd = [name for name, kind in kinds.items() if not isinstance(results.get(name), kind)]
    if odd:
        raise ValueError(f"{path} is damaged: {', '.join(odd)} missing or of a wrong type; {todo}")
    if results.get("sha256", digest := digest_of_results(results)) != digest:
        raise ValueError(f"{path} is damaged or was edited: it does not have its digest; {todo}")
    return results


def digest_of_results(results: Mapping[str, Any]) -> str:
    """SHA-256 over the results but for what differs between equal runs: times and versions."""
    return digest_of_json(results, ["sha256", "seconds", "images_per_second", "versions"])


def transform_of(config: Config) -> Transform:
    """What the run did to images."""
    fields = {field: config["data"][field] for of_kind in AUGMENT.values() for field in of_kind}
    return make_transform(config["data"]["augment"], config["data"]["image_size"], **fields)


def network_of(config: Config) -> EmbeddingNetwork:
    """The network of the run."""
    return make_network(**{field: config["network"][field] for field in NETWORK})


def load(workdir: Path, config: Config, image_shape: tuple[int, ...], mesh: Mesh) -> Trained:
    """The network at the checkpoint that validation classes chose, or else at the last one.

    Args:
        workdir: of the run; while it goes on its checkpoint so far is taken.
        config: its fields.
        image_shape: of what is given to the network: height, width, channels.
        mesh: over which the state is replicated.

    Raises:
        FileNotFoundError: there is no checkpoint yet.
        ValueError: the network was trained on images of another shape, or the checkpoint that the run
            was measured by is damaged.
    """
    if list(image_shape) != config["image_shape"]:
        raise ValueError(
            f"{workdir} was trained on images of shape {config['image_shape']}, not {[*image_shape]}"
        )
    network, width = network_of(config), config["network"]["unit_dim"]
    optimizer = make_optimizer(**config["optimizer"], steps=config["train"]["steps"])
    classes = config.get("classes", 0)  # of the classifier; 0: none
    fresh = init_state(network, PDDM(width, width), optimizer, image_shape, config["seed"], mesh, classes)
    scored = bool(config["data"]["validation"])
    state, told = restore_chosen(workdir / "checkpoints", fresh, scored)
    if (workdir / "results.json").exists():
        _check_reported(workdir, state, told)
    if told and jax.process_index() == 0:
        tell(f"{told}; step {int(state.step)} is taken instead")
    return Trained(network, state)


def _check_reported(workdir: Path, state: TrainState, told: str) -> None:
    """Refuse parameters other than those that results.json is about."""
    if digest_of(state.params, state.batch_stats) != read_results(workdir)["params_sha256"]:
        raise ValueError(
            f"the checkpoint that {workdir / 'results.json'} was measured by is not there: "
            f"{told or f'that of step {int(state.step)} holds other parameters'}; delete results.json and "
            "give the run's command again, which makes it anew"
        )
