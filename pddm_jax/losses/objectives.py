"""Objectives by name: each a miner and a loss, as one function of a batch's embeddings."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from pddm_jax import losses
from pddm_jax.checks import as_count, as_labels, as_matrix, as_scalar, check_choice
from pddm_jax.losses.double_header import hinge_means
from pddm_jax.pddm.mining import SCOPES, mine_by_distance, mine_fused
from pddm_jax.pddm.scoring import as_unit, check_unit
from pddm_jax.types import DTYPES, Quadruplets

Logs = dict[str, Float[Array, ""]]
Learned = Mapping[str, PyTree]
"""Parameters by part: those of the `unit`, and of a `classifier` where the objective has one."""
Loss = Callable[[Learned, Float[Array, "b d"], Int[Array, " b"]], tuple[Float[Array, ""], Logs]]


class Objective(NamedTuple):
    """A recipe: a loss `(params, embeddings, labels, pairs, **fields) -> (loss, logs)`, its defaults.

    `pairs` is the number of positive pairs of a batch, known where it is P classes of K images.
    """

    loss: Callable[..., tuple[Float[Array, ""], Logs]]
    defaults: dict[str, Any]
    learns_score: bool = False  # whether the PDDM unit is trained, so that its score means something


def make_objective(
    name: str, pairs: int | None = None, softmax: float = 0.0, **fields: Any
) -> tuple[Loss, dict[str, Any]]:
    """The loss of a named objective, `(params, embeddings, labels) -> (loss, logs)`, and its fields.

    Args:
        name: one of `OBJECTIVES`.
        pairs: the number of positive pairs in every batch; None = any batch, at more memory.
        softmax: weight of classification beside the objective's own loss, which brings its fields too.
        **fields: what shall differ from the objective's defaults.

    Raises:
        ValueError: no objective has this name, this one has no such field, or the field cannot be that.
    """
    check_choice("objective.name", name, OBJECTIVES)
    as_scalar("objective.softmax", softmax)
    if pairs is not None:
        as_count("pairs", pairs)
    objective, beside = OBJECTIVES[name], {"softmax": softmax, **_SOFTMAX} if softmax else {}
    if not 0 <= softmax < math.inf or (softmax and name == "softmax"):
        raise ValueError(
            "objective.softmax, the weight of classification beside another objective, must be finite and "
            f"not below 0, got {softmax} with objective {name!r}"
        )
    for field in fields:
        check_choice(f"a field of objective {name!r}", field, objective.defaults | beside)
        if field == "mining_scope":
            check_choice("objective.mining_scope", fields[field], SCOPES)
        elif field == "dtype":
            check_choice("objective.dtype", fields[field], DTYPES)
        elif not np.isfinite(as_scalar(f"objective.{field}", fields[field])):
            raise ValueError(f"objective.{field} must be finite, got {fields[field]}")
        elif field == "temperature" and fields[field] <= 0:
            raise ValueError(f"objective.temperature must be above 0, got {fields[field]}")
    resolved = objective.defaults | beside | fields
    own = {field: resolved[field] for field in objective.defaults}

    def loss(params: Learned, embeddings: Array, labels: Array) -> tuple[Array, Logs]:
        value, logs = objective.loss(params, embeddings, labels, pairs, **own)
        if not softmax:
            return value, logs
        of_classes, _ = _softmax(params, embeddings, labels, pairs, temperature=resolved["temperature"])
        return value + as_scalar("softmax", softmax) * of_classes, logs | {"loss_softmax": of_classes}

    return loss, resolved


def has_classifier(fields: Mapping[str, Any]) -> bool:
    """Whether an objective with these fields takes parameters of a classifier."""
    return _SOFTMAX.keys() <= fields.keys()


def _size(mining_scope: str, pairs: int | None) -> int | None:
    """The slots of mining: the number of positive pairs is theirs in the scope "positive" only."""
    return pairs if mining_scope == "positive" else None


def _pddm(
    params: Learned,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    mining_scope: str,
    alpha: float,
    beta: float,
    weight: float,
    dtype: str,
    heads: int,
) -> tuple[Array, Logs]:
    """Quadruplets mined by PDDM score; the hinges of i's negative alone (one head), or of j's too."""
    x = as_matrix("embeddings", x, check_unit(params["unit"]))
    unit, labels = as_unit(params["unit"]), jnp.asarray(as_labels("labels", labels, len(x)))
    mined, _ = mine_fused(unit, x, labels, per=mining_scope, size=_size(mining_scope, pairs), dtype=dtype)
    margins = as_scalar("alpha", alpha), as_scalar("beta", beta)
    metric, embedding = hinge_means(unit, x, mined, *margins, heads)
    logs = {"loss_metric": metric, "loss_embedding": embedding, **_counted(mined)}
    return metric + as_scalar("weight", weight) * embedding, logs


def _quadruplet(
    params: Learned,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    mining_scope: str,
    beta: float,
) -> tuple[Array, Logs]:
    """Quadruplets mined by Euclidean distance; the hinges of distances."""
    del params
    x = as_matrix("embeddings", x)
    labels = jnp.asarray(as_labels("labels", labels, len(x)))
    mined = mine_by_distance(x, labels, mining_scope, _size(mining_scope, pairs))
    return hinge_means(None, x, mined, 0.0, as_scalar("beta", beta))[1], _counted(mined)


def _counted(mined: Quadruplets) -> Logs:
    """How many slots hold a quadruplet: a batch without one teaches nothing."""
    return {"valid_quadruplets": jnp.sum(mined.valid, dtype=jnp.float32)}


def _softmax(
    params: Learned,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    temperature: float,
) -> tuple[Array, Logs]:
    """Classification of each image among all classes that are trained on, whose numbers the labels are."""
    del pairs
    return losses.softmax_loss(params["classifier"]["kernel"], x, labels, temperature), {}


def _plain(loss: Callable[..., Array], **fixed: str) -> Callable[..., tuple[Array, Logs]]:
    """A loss of embeddings and labels alone."""
    return lambda params, x, labels, pairs, **fields: (loss(x, labels, **fixed, **fields), {})


_SOFTMAX = {"temperature": 0.05}
_PDDM = {"mining_scope": "positive", "alpha": 0.5, "beta": 1.0, "weight": 1.0, "dtype": "float32"}

OBJECTIVES = {
    "pddm": Objective(partial(_pddm, heads=2), _PDDM, learns_score=True),
    "pddm_triplet": Objective(partial(_pddm, heads=1), _PDDM, learns_score=True),
    "quadruplet": Objective(_quadruplet, {"mining_scope": "positive", "beta": 1.0}),
    "triplet": Objective(_plain(losses.triplet_loss, mining="all"), {"margin": 0.2}),
    "triplet_semihard": Objective(_plain(losses.triplet_loss, mining="semihard"), {"margin": 0.2}),
    "triplet_hard": Objective(_plain(losses.triplet_loss, mining="hard"), {"margin": 0.2}),
    "contrastive": Objective(_plain(losses.contrastive_loss), {"margin": 1.0}),
    "lifted_structure": Objective(_plain(losses.lifted_structure_loss), {"margin": 1.0}),
    "multi_similarity": Objective(
        _plain(losses.multi_similarity_loss),
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "margin": 0.1},
    ),
    "softmax": Objective(_softmax, _SOFTMAX),
}
