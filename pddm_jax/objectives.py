"""Objectives by name: each a miner and a loss, as one function of a batch's embeddings."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

from pddm_jax import losses
from pddm_jax.checks import check_choice
from pddm_jax.mining import SCOPES, mine_quadruplets, mine_quadruplets_fused
from pddm_jax.pairwise import all_squared_distances
from pddm_jax.types import Params

Logs = dict[str, Float[Array, ""]]
Loss = Callable[[Params, Float[Array, "b d"], Int[Array, " b"]], tuple[Float[Array, ""], Logs]]


class Objective(NamedTuple):
    """A recipe: a loss `(params, embeddings, labels, pairs, **fields) -> (loss, logs)`, its defaults.

    `pairs` is the number of positive pairs of a batch, known where it is P classes of K images.
    """

    loss: Callable[..., tuple[Float[Array, ""], Logs]]
    defaults: dict[str, Any]
    learns_score: bool = False  # whether the PDDM unit is trained, so that its score means something


def make_objective(name: str, pairs: int | None = None, **fields: Any) -> tuple[Loss, dict[str, Any]]:
    """The loss of a named objective, `(params, embeddings, labels) -> (loss, logs)`, and its fields.

    Args:
        name: one of `OBJECTIVES`.
        pairs: the number of positive pairs in every batch; None = any batch, at more memory.
        **fields: what shall differ from the objective's defaults.

    Raises:
        ValueError: no objective has this name, this one has no such field, or the field cannot be that.
    """
    check_choice("objective.name", name, OBJECTIVES)
    objective = OBJECTIVES[name]
    for field in fields:
        check_choice(f"a field of objective {name!r}", field, objective.defaults)
        if field == "per":
            check_choice("objective.per", fields[field], SCOPES)
        elif not math.isfinite(fields[field]):
            raise ValueError(f"objective.{field} must be finite, got {fields[field]}")
    resolved = objective.defaults | fields

    def loss(params: Params, embeddings: Array, labels: Array) -> tuple[Array, Logs]:
        return objective.loss(params, embeddings, labels, pairs, **resolved)

    return loss, resolved


def _size(per: str, pairs: int | None) -> int | None:
    """The slots of mining: the number of positive pairs is theirs in the scope "positive" only."""
    return pairs if per == "positive" else None


def _pddm(
    params: Params,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    per: str,
    alpha: float,
    beta: float,
    weight: float,
    heads: int,
) -> tuple[Array, Logs]:
    """Quadruplets mined by PDDM score; the hinges of i's negative alone (one head), or of j's too."""
    mined = mine_quadruplets_fused(params, x, labels, per, _size(per, pairs))
    metric, embedding = losses.hinge_means(params, x, mined, alpha, beta, heads)
    return metric + weight * embedding, {"loss_metric": metric, "loss_embedding": embedding}


def _quadruplet(
    params: Params,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    per: str,
    beta: float,
) -> tuple[Array, Logs]:
    """Quadruplets mined by Euclidean distance; the hinges of distances."""
    del params
    mined = mine_quadruplets(-all_squared_distances(x), labels, per, _size(per, pairs))
    return losses.hinge_means(None, x, mined, alpha=0.0, beta=beta)[1], {}


def _plain(loss: Callable[..., Array], **fixed: str) -> Callable[..., tuple[Array, Logs]]:
    """A loss of embeddings and labels alone."""
    return lambda params, x, labels, pairs, **fields: (loss(x, labels, **fixed, **fields), {})


_PDDM = {"per": "positive", "alpha": 0.5, "beta": 1.0, "weight": 1.0}

OBJECTIVES = {
    "pddm": Objective(partial(_pddm, heads=2), _PDDM, learns_score=True),
    "pddm_triplet": Objective(partial(_pddm, heads=1), _PDDM, learns_score=True),
    "quadruplet": Objective(_quadruplet, {"per": "positive", "beta": 1.0}),
    "triplet": Objective(_plain(losses.triplet_loss, mining="all"), {"margin": 0.2}),
    "triplet_semihard": Objective(_plain(losses.triplet_loss, mining="semihard"), {"margin": 0.2}),
    "triplet_hard": Objective(_plain(losses.triplet_loss, mining="hard"), {"margin": 0.2}),
    "contrastive": Objective(_plain(losses.contrastive_loss), {"margin": 1.0}),
    "lifted_structure": Objective(_plain(losses.lifted_structure_loss), {"margin": 1.0}),
    "multi_similarity": Objective(
        _plain(losses.multi_similarity_loss),
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "margin": 0.1},
    ),
}
