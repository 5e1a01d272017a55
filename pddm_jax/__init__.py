"""Deep metric learning in JAX: PDDM, the losses it is measured against, and how to measure them."""

from typing import TYPE_CHECKING, Any

from pddm_jax.system.early import begin

begin("pddm_jax")  # before JAX is loaded

# ruff: noqa: E402
from pddm_jax.evaluate.metrics import map_at_r, nmi, r_precision, recall_at_k
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.losses import (
    contrastive_loss,
    lifted_structure_loss,
    multi_similarity_loss,
    softmax_loss,
    triplet_loss,
)
from pddm_jax.losses.double_header import double_header_hinge
from pddm_jax.pddm.mining import mine_quadruplets, mine_quadruplets_fused
from pddm_jax.pddm.scoring import score_matrix
from pddm_jax.pddm.unit import PDDM, pair_scores
from pddm_jax.types import Quadruplets
from pddm_jax.version import __version__

if TYPE_CHECKING:
    from pddm_jax.run import Run, load, train

__all__ = [
    "PDDM",
    "Quadruplets",
    "Run",
    "__version__",
    "contrastive_loss",
    "double_header_hinge",
    "lifted_structure_loss",
    "load",
    "map_at_r",
    "mine_quadruplets",
    "mine_quadruplets_fused",
    "multi_similarity_loss",
    "nearest",
    "nmi",
    "pair_scores",
    "r_precision",
    "recall_at_k",
    "score_matrix",
    "softmax_loss",
    "train",
    "triplet_loss",
]

_FROM_RUN = ("Run", "load", "train")


def __getattr__(name: str) -> Any:
    """Import `pddm_jax.run` when it is first used: that takes seconds, and scoring does not need it."""
    if name not in _FROM_RUN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pddm_jax import run

    return getattr(run, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
