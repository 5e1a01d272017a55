"""Provenance of results: digests of images and parameters, versions of packages, and the device."""

import hashlib
import platform
from importlib.metadata import version

import jax
import numpy as np

from pddm_jax.data.images import Images
from pddm_jax.system.digests import digest_of
from pddm_jax.training.state import TrainState
from pddm_jax.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("pillow", "opencv-python-headless"),
)


def digest_of_images(images: Images) -> str:
    """SHA-256 over the names of the classes and the number of images of each."""
    labels, counts = np.unique(images.labels, return_counts=True)
    each = zip(labels.tolist(), counts.tolist(), strict=True)
    text = "\n".join(sorted(f"{images.class_names[label]}: {count}" for label, count in each))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def digest(state: TrainState) -> str:
    """SHA-256 over all parameters and batch statistics, in the order of their names."""
    return digest_of(state.params, state.batch_stats)


def versions() -> dict[str, str]:
    """Versions of Python and packages, and the device."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {
        "python": platform.python_version(),
        "device": device,
        "machine": platform.machine(),
        "pddm_jax": __version__,
        **{package: version(package) for package in PACKAGES},
    }
