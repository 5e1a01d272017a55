"""Warm starts: the initial weights of a run, from a file of published weights or from another run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from pddm_jax.data.from_python import ARRAYS, PATHS
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.networks.pretrained.load import file_sha256, load_pretrained, weights_path
from pddm_jax.sharding import data_mesh, replicated
from pddm_jax.training.checkpoint_files import steps_in
from pddm_jax.training.provenance import digest
from pddm_jax.training.restore import restore_trained
from pddm_jax.training.run_files import Config, read_config, read_results
from pddm_jax.training.state import TrainState

ANY_IMAGES = (1, 64, 64, 3)
"""A shape that every backbone takes: its parameters do not depend on it."""


def source_of_weights(spec: str | None, name: str, network: EmbeddingNetwork) -> dict[str, Any] | None:
    """The source of the initial weights: a file and its SHA-256, or a run with protocol and digest.

    Args:
        spec: `network.pretrained`: a file as `weights_path` takes it, the workdir of a finished run, or
            None.
        name: `network.name` of the new run.
        network: that network, which a file must fit.

    Returns:
        None if there is no `spec`: the weights are random.

    Raises:
        OSError: the file or run does not exist, or the run is not finished.
        ValueError: the run trained another network, or one that was given from Python; and as
            `load_pretrained`.
    """
    if not spec:
        return None
    path = weights_path(spec)
    if not path.is_dir():
        shapes = jax.eval_shape(network.backbone.init, jax.random.key(0), jnp.zeros(ANY_IMAGES))
        load_pretrained(name, spec, shapes)  # its errors come before data is read
        return {"from": spec, "sha256": file_sha256(path)}
    config = None if (path / "results.json").exists() else _config_from_python(path)
    results = {"protocol": config} if config else read_results(path)
    theirs = results["protocol"]["network"]["name"]
    if theirs != name:
        raise ValueError(f"network.pretrained: {spec} is a run of network.name {theirs!r}, not {name!r}")
    if config:
        results = _results_from_python(path, config)
    return {"from": spec, "params_sha256": results["params_sha256"], "protocol": results["protocol"]}


def _config_from_python(path: Path) -> Config | None:
    """The config of a run of `pddm_jax.train`, which writes no results.json; None for any other folder.

    Raises:
        ValueError: its network was given from Python.
    """
    try:
        config = read_config(path)
    except FileNotFoundError:
        return None
    own = config.get("python", {})
    if own.get("network"):
        raise ValueError(
            f"network.pretrained: {path} was trained with a network given as a Python object "
            f"({own['network']}): choose a run with a network.name"
        )
    return config if own or config["data"]["name"] in (ARRAYS, PATHS) else None


def _results_from_python(path: Path, config: Config) -> dict[str, Any]:
    """The fields of results.json that `source_of_weights` needs, from the checkpoint of such a run.

    Raises:
        FileNotFoundError: there is no checkpoint of the last step.
        ValueError: the checkpoints are damaged.
    """
    saved, end = steps_in(path / "checkpoints"), config["train"]["steps"]
    if saved[-1:] != [end]:
        raise FileNotFoundError(
            f"{path} holds no finished run: it has "
            + (f"{saved[-1]} of {end} steps" if saved else "no checkpoint")
        )
    state = restore_trained(path, config, tuple(config["image_shape"]), data_mesh()).state
    chosen_by = "best by validation" if config["data"]["val_class_fraction"] else "last"
    protocol = {
        "data": config["data"]["name"],
        "split": "images given from Python",
        "checkpoint": f"step {int(state.step)}, {chosen_by}",
        "network": config["network"],
        "objective": config["objective"] | {"name": _objective_of(config)},
        "seed": config["seed"],
        "train_sha256": config.get("train_sha256"),
    }
    return {"params_sha256": digest(state), "protocol": protocol}


def _objective_of(config: Config) -> str:
    name: str = config.get("python", {}).get("objective") or config["objective"]["name"]
    return name


def check_no_test_leakage(
    source: Mapping[str, Any] | None, data: str, split: str, train_sha256: str
) -> None:
    """Raise a ValueError if the run that the weights come from may have trained on the test classes.

    That is a run on another split, or on other images, of the same data set. Runs on other data sets and
    files of weights are accepted.

    Args:
        source: of the weights, as by `source_of_weights`.
        data: `data.name` of the new run.
        split: the description of its split.
        train_sha256: the digest of its training images, as in its protocol.
    """
    if source is None or source.get("protocol", {}).get("data") != data:
        return
    protocol = source["protocol"]
    if protocol["split"] != split:
        trained = f"another split of {data} ({protocol['split']}, here {split})"
    elif protocol["train_sha256"] != train_sha256:
        trained = f"other images of {data}"
    else:
        return
    raise ValueError(
        f"network.pretrained: {source['from']} was trained on {trained}, which may hold test images: "
        "choose other weights"
    )


def describe_source(source: Mapping[str, Any]) -> str:
    """The source of the initial weights in one line."""
    if "sha256" in source:
        return f"{source['from']}, SHA-256 {source['sha256']}"
    protocol = source["protocol"]
    trained = f"{protocol['objective']['name']} on {protocol['data']}, {protocol['split']}"
    trained += f"; {protocol['checkpoint']}"
    return f"{source['from']} ({trained})"


def with_weights(
    state: TrainState, fields: Mapping[str, Any], image_shape: tuple[int, ...], mesh: Mesh
) -> TrainState:
    """Copy the weights of `network.pretrained` into the backbone of a state.

    The embedding layer is copied too if they come from a run with the same `embedding_dim`. The PDDM unit
    and the classifier keep their random weights.

    Args:
        state: the state with random weights.
        fields: the group `network` of the config; `pretrained` is given.
        image_shape: of the input of the network: height, width, channels.
        mesh: the state is replicated over it.

    Raises:
        OSError: as `source_of_weights`.
        ValueError: the file does not fit the network, or the run was trained on images of another shape.
    """
    path = weights_path(fields["pretrained"])
    ours = state.variables
    if path.is_dir():
        config = read_config(path)
        theirs = restore_trained(path, config, image_shape, mesh).state.variables
        whole = config["network"]["embedding_dim"] == fields["embedding_dim"]
    else:
        backbone = {kind: jax.device_get(parts.get("backbone", {})) for kind, parts in ours.items()}
        loaded = jax.device_put(
            load_pretrained(fields["name"], fields["pretrained"], backbone), replicated(mesh)
        )
        theirs, whole = {kind: {"backbone": tree} for kind, tree in loaded.items()}, False
    taken = {
        kind: {part: theirs[kind][part] if whole or part == "backbone" else x for part, x in parts.items()}
        for kind, parts in ours.items()
    }
    params = state.params | {"network": taken["params"]}
    return TrainState(state.step, params, taken["batch_stats"], state.opt_state)
