"""Signs of training that goes wrong: embeddings that collapse, and batches without quadruplets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pddm_jax.system.files import read_object

VALID, WITHOUT = "valid_quadruplets", "batches_without_quadruplets"
"""In the logs of objectives that mine, and in the rows of metrics.jsonl."""


class Spread(NamedTuple):
    """How far embeddings lie apart, and in how many directions.

    Attributes:
        embedding_std: root of the mean squared distance from the mean embedding. Of unit vectors it is
            sqrt(1 - mean cosine of all pairs): 1 where they lie evenly on the sphere, 0 where all are one
            point. It is sqrt(d) times the standard deviation that Chen and He, "Exploring Simple Siamese
            Representation Learning", CVPR 2021, section 4.1, watch for collapse.
        effective_rank: exp of the entropy of the singular values of the embeddings about their mean, as
            shares of their sum: d where all directions are used alike, 1 where they lie on a line. Roy and
            Vetterli, "The effective rank", EUSIPCO 2007; for collapse as in Garrido et al., "RankMe", ICML
            2023.
    """

    embedding_std: float
    effective_rank: float


def spread(embeddings: Float[np.ndarray, "n d"]) -> Spread:
    """The spread of embeddings; of one point, or none, it is 0 and 1.

    n d^2 operations in float64, by blocks of rows.
    """
    n, d = embeddings.shape
    if not n:
        return Spread(0.0, 1.0)
    blocks = np.array_split(embeddings, -(-n // BLOCK))
    mean = sum(np.sum(block, axis=0, dtype=np.float64) for block in blocks) / n
    scatter = np.zeros((d, d))
    for block in blocks:
        centred = block - mean
        scatter += centred.T @ centred
    variances = np.clip(np.linalg.eigvalsh(scatter / n), 0, None)
    total = float(variances.sum())
    if total <= ROUNDING**2 * float(mean @ mean):
        return Spread(0.0, 1.0)
    singular = np.sqrt(variances)
    shares = singular[singular > 0] / singular.sum()
    return Spread(total**0.5, float(np.exp(-(shares * np.log(shares)).sum())))


BLOCK = 2**14
"""Rows that are held in float64 at a time."""

ROUNDING = 1e-6
"""Spread beside the mean that is nothing but rounding of float32."""


@dataclass
class Alarm:
    """A warning that is given once, and again only after what it warns of was over."""

    tell: Callable[[str], None]
    on: bool = False

    def set(self, wrong: bool, text: str) -> None:
        """Tell the text where it goes wrong and did not before."""
        if wrong and not self.on:
            self.tell(f"warning: {text}")
        self.on = wrong


@dataclass
class Collapse:
    """Warns when embeddings have drawn together.

    Attributes:
        tell: takes the warning.
        classes: that are trained on; embeddings of few classes use few directions.
    """

    tell: Callable[[str], None]
    classes: int
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.tell)

    def row(self, step: int, embeddings: Float[np.ndarray, "n d"]) -> dict[str, float]:
        """What is logged of the embeddings of an evaluation."""
        found = spread(embeddings)
        least_rank = min(LEAST_RANK, (self.classes - 1) / 2)
        low_std = found.embedding_std < LEAST_STD
        low_rank = found.effective_rank < least_rank and min(embeddings.shape) > 2 * least_rank
        sign = (
            f"embedding_std {found.embedding_std:.3g} is below {LEAST_STD:g}"
            if low_std
            else f"effective_rank {found.effective_rank:.3g} of {embeddings.shape[1]} dimensions is below "
            f"{least_rank:g}"
        )
        self.alarm.set(
            len(embeddings) > 1 and (low_std or low_rank),
            f"the embeddings collapse at step {step}: {sign}; try a lower optimizer.learning_rate, "
            "semi-hard mining (objective.name=triplet_semihard), a larger margin, or more "
            "data.images_per_class",
        )
        return {name: float(f"{value:.6g}") for name, value in found._asdict().items()}


LEAST_STD = 0.1
"""Below it the embeddings count as one point."""

LEAST_RANK = 5.0
"""Below it they count as lying in too few directions, where there are classes enough for more."""


@dataclass
class MiningCounts:
    """Valid quadruplets of the batches since the last row of metrics.jsonl.

    What a checkpoint between two rows finds counted stands in its record, so that a run that goes on from
    there writes the same rows as one that never stopped.
    """

    tell: Callable[[str], None]
    batches: int = 0
    quadruplets: float = 0.0
    without: int = 0
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.tell)

    def resume(self, known: Mapping[str, Any]) -> None:
        """Take up what was counted when a checkpoint was saved, as `known` told it."""
        self.batches, self.quadruplets = known["batches"], known["quadruplets"]
        self.without = known["without"]

    def observe(self, step: int, logs: dict[str, float]) -> None:
        """Count the batch of a step."""
        if VALID in logs:
            self.batches += 1
            self.quadruplets += logs[VALID]
            self.without += logs[VALID] == 0

    def row(self, step: int) -> dict[str, float]:
        """What is logged of the batches since the last row; nothing for objectives that do not mine."""
        if not self.batches:
            return {}
        self.alarm.set(
            self.without > 0,
            f"{self.without} of the {self.batches} batches up to step {step} had no valid quadruplet, and "
            "taught nothing: raise data.classes_per_batch or data.images_per_class",
        )
        found = {VALID: self.quadruplets / self.batches, WITHOUT: self.without}
        self.batches, self.quadruplets, self.without = 0, 0.0, 0
        return found

    def known(self) -> dict[str, Any]:
        """What a checkpoint is to know of the counts."""
        return {"batches": self.batches, "quadruplets": self.quadruplets, "without": self.without}


def counts_of_old(path: Path, step: int) -> dict[str, Any]:
    """The counts at the checkpoint of a step in mining.json, where earlier versions kept them.

    Raises:
        ValueError: it is damaged.
    """
    todo = "delete it; counts begin anew"
    try:
        counts = read_object(path, todo).get(str(step), (0, 0.0, 0))
    except FileNotFoundError:
        counts = (0, 0.0, 0)
    try:
        batches, quadruplets, without = counts
        return {"batches": int(batches), "quadruplets": float(quadruplets), "without": int(without)}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: step {step} has no three counts; {todo}") from error


def total_without(rows: list[dict[str, float]]) -> int | None:
    """Batches without quadruplets of a whole run; None where its objective does not mine."""
    counts = [row[WITHOUT] for row in rows if WITHOUT in row]
    return int(sum(counts)) if counts else None
