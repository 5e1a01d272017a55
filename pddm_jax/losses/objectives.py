"""Objectives by name: a miner and a loss as one function of the embeddings of a batch."""

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
from pddm_jax.pddm.unit import as_unit, check_unit
from pddm_jax.types import DTYPES, Quadruplets

Logs = dict[str, Float[Array, ""]]
LossParams = Mapping[str, PyTree]
"""Parameters of an objective: of the `unit`, and of the `classifier` where it has one."""
Loss = Callable[[LossParams, Float[Array, "b d"], Int[Array, " b"]], tuple[Float[Array, ""], Logs]]


class Objective(NamedTuple):
    """A loss and its defaults.

    Attributes:
        loss: `(params, embeddings, labels, pairs, **fields) -> (loss, logs)`; `pairs` is the number of
            positive pairs of a batch, known for batches of P classes of K images.
        defaults: the fields of the loss, with their default values.
        learns_score: whether the PDDM unit is trained, so that its score can rank images.
    """

    loss: Callable[..., tuple[Float[Array, ""], Logs]]
    defaults: dict[str, Any]
    learns_score: bool = False


def make_objective(
    name: str, pairs: int | None = None, softmax: float = 0.0, **fields: Any
) -> tuple[Loss, dict[str, Any]]:
    """The loss of a named objective, `(params, embeddings, labels) -> (loss, logs)`, and its fields.

    Args:
        name: one of `OBJECTIVES`.
        pairs: the number of positive pairs in every batch; None = any number, which takes more memory.
        softmax: weight of the softmax loss added to the objective, which then has its fields too.
        **fields: values that differ from the defaults of the objective.

    Raises:
        ValueError: the objective or a field of it is unknown, or a value is out of range.
    """
    check_choice("objective.name", name, OBJECTIVES)
    as_scalar("objective.softmax", softmax)
    if pairs is not None:
        as_count("pairs", pairs)
    objective, added = OBJECTIVES[name], {"softmax": softmax, **_SOFTMAX} if softmax else {}
    if not 0 <= softmax < math.inf:
        raise ValueError(
            "objective.softmax, the weight of the added softmax loss, must be finite and at least 0, "
            f"got {softmax}"
        )
    if softmax and name == "softmax":
        raise ValueError(
            f"objective.softmax must be 0 with objective 'softmax', which is that loss, got {softmax}"
        )
    for field in fields:
        check_choice(f"a field of objective {name!r}", field, objective.defaults | added)
        if field == "mining_scope":
            check_choice("objective.mining_scope", fields[field], SCOPES)
        elif field == "dtype":
            check_choice("objective.dtype", fields[field], DTYPES)
        elif not np.isfinite(as_scalar(f"objective.{field}", fields[field])):
            raise ValueError(f"objective.{field} must be finite, got {fields[field]}")
        elif field == "temperature" and fields[field] <= 0:
            raise ValueError(f"objective.temperature must be above 0, got {fields[field]}")
    resolved = objective.defaults | added | fields
    own = {field: resolved[field] for field in objective.defaults}

    def loss(params: LossParams, embeddings: Array, labels: Array) -> tuple[Array, Logs]:
        value, logs = objective.loss(params, embeddings, labels, pairs, **own)
        if not softmax:
            return value, logs
        softmax_value, _ = _softmax(params, embeddings, labels, pairs, temperature=resolved["temperature"])
        return value + as_scalar("softmax", softmax) * softmax_value, logs | {"loss_softmax": softmax_value}

    return loss, resolved


def has_classifier(fields: Mapping[str, Any]) -> bool:
    """Whether an objective with these fields needs parameters of a classifier."""
    return _SOFTMAX.keys() <= fields.keys()


def _size(mining_scope: str, pairs: int | None) -> int | None:
    """The number of mining slots: the number of positive pairs in the scope "positive"."""
    return pairs if mining_scope == "positive" else None


def _pddm(
    params: LossParams,
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
    """Hinges over quadruplets mined by PDDM score: of the negative of i (one head), or of j too (two)."""
    x = as_matrix("embeddings", x, check_unit(params["unit"]))
    unit, labels = as_unit(params["unit"]), jnp.asarray(as_labels("labels", labels, len(x)))
    mined, _ = mine_fused(unit, x, labels, per=mining_scope, size=_size(mining_scope, pairs), dtype=dtype)
    margins = {"alpha": as_scalar("alpha", alpha), "beta": as_scalar("beta", beta)}
    metric, embedding = hinge_means(unit, x, mined, **margins, heads=heads)
    logs = {"loss_metric": metric, "loss_embedding": embedding, **_valid_count(mined)}
    return metric + as_scalar("weight", weight) * embedding, logs


def _quadruplet(
    params: LossParams,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    mining_scope: str,
    beta: float,
) -> tuple[Array, Logs]:
    """Hinges of distances over quadruplets mined by Euclidean distance."""
    del params
    x = as_matrix("embeddings", x)
    labels = jnp.asarray(as_labels("labels", labels, len(x)))
    mined = mine_by_distance(x, labels, mining_scope, _size(mining_scope, pairs))
    _, embedding = hinge_means(None, x, mined, alpha=0.0, beta=as_scalar("beta", beta))
    return embedding, _valid_count(mined)


def _valid_count(mined: Quadruplets) -> Logs:
    """The number of valid quadruplets: a batch without one has no gradient."""
    return {"valid_quadruplets": jnp.sum(mined.valid, dtype=jnp.float32)}


def _softmax(
    params: LossParams,
    x: Float[Array, "b d"],
    labels: Int[Array, " b"],
    pairs: int | None,
    *,
    temperature: float,
) -> tuple[Array, Logs]:
    """Classification among all training classes; the labels are their column indices."""
    del pairs
    return losses.softmax_loss(params["classifier"]["kernel"], x, labels, temperature), {}


def _plain(loss: Callable[..., Array], **fixed: str) -> Callable[..., tuple[Array, Logs]]:
    """An objective from a loss of embeddings and labels alone."""
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
