"""What a finished run is told by: measures under a protocol, versions, a digest, a table."""

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

import pddm_jax
from pddm_jax import metrics
from pddm_jax.training import TrainState

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("pillow", "opencv-python-headless"),
)

Results = dict[str, Any]


def measures(rankings: dict[str, metrics.Ranking]) -> Results:
    """Recall@K, MAP@R and R-precision, each by both rankings; None for a score that is not trained."""

    def each(measure: Callable[[metrics.Ranking], Any]) -> dict[str, Any]:
        names = "euclidean", "pddm"
        return {name: measure(rankings[name]) if name in rankings else None for name in names}

    return {
        "recall_at_k": each(lambda r: {str(k): recall for k, recall in metrics.recall_of(r).items()}),
        "map_at_r": each(metrics.map_at_r_of),
        "r_precision": each(metrics.r_precision_of),
    }


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


def table(results: Results) -> str:
    """The results of a run as text."""
    recall, map_at_r = results["recall_at_k"], results["map_at_r"]
    head = ["ranked by", *(f"R@{k}" for k in recall["euclidean"]), "MAP@R"]
    rows = [
        [name, *(f"{100 * x:.1f}" for x in recall[name].values()), f"{100 * map_at_r[name]:.1f}"]
        for name in recall
        if recall[name]
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in (head, *rows))
    objective, protocol = results["protocol"]["objective"]["name"], results["protocol"]
    return (
        f"{results['experiment']}: {objective} on {protocol['data']}, seed {protocol['seed']}; "
        f"{protocol['images']['test']} images of {protocol['classes']['test']} unseen classes; "
        f"{results['steps']} steps in {results['seconds']} s\n" + "\n".join(lines)
    )
