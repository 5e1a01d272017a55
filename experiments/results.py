"""What a finished run is told by, whatever was measured: versions, a digest of the parameters, a table."""

import hashlib
import platform
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

import pddm_jax
from pddm_jax.training import TrainState

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("pillow", "opencv-python-headless"),
)

Results = dict[str, Any]


def digest(state: TrainState) -> str:
    """SHA-256 over all parameters and batch statistics, in the order of their names."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((state.params, state.batch_stats)):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def versions() -> dict[str, str]:
    """What the run stood on."""
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return {
        "python": platform.python_version(),
        "device": device,
        "machine": platform.machine(),
        "pddm_jax": pddm_jax.__version__,
        **{package: version(package) for package in PACKAGES},
    }


def align(rows: list[list[str]]) -> str:
    """Rows of cells as text, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in rows)
