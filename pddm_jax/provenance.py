"""Where numbers come from: what they were computed on, and with which parameters."""

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version

import jax
import numpy as np

import pddm_jax
from pddm_jax.training import TrainState

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("pillow", "opencv-python-headless"),
)


def digest_of_names(names: Iterable[str]) -> str:
    """SHA-256 over names, in whatever order they come."""
    return hashlib.sha256("\0".join(sorted(names)).encode("utf-8", "surrogateescape")).hexdigest()


def digest(state: TrainState) -> str:
    """SHA-256 over all parameters and batch statistics, in the order of their names."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats)):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def versions() -> dict[str, str]:
    """What a run stands on."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {
        "python": platform.python_version(),
        "device": device,
        "machine": platform.machine(),
        "pddm_jax": pddm_jax.__version__,
        **{package: version(package) for package in PACKAGES},
    }
