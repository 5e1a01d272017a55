"""Signs of failing training: collapsed embeddings, and batches without valid quadruplets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pddm_jax.system.files import read_object

VALID, EMPTY = "valid_quadruplets", "batches_without_quadruplets"
"""Fields of the logs of objectives that mine, and of the rows of metrics.jsonl."""


class EmbeddingStatistics(NamedTuple):
    """The standard deviation of embeddings, and the number of directions that they use.

    Attributes:
        embedding_std: root of the mean squared distance from the mean embedding. Of unit vectors it is
            sqrt(1 - mean cosine of all pairs): 1 if they are uniform on the sphere, 0 if all are one point.
            It is sqrt(d) times the standard deviation by which Chen and He, "Exploring Simple Siamese
            Representation Learning", CVPR 2021, section 4.1, detect collapse.
        effective_rank: exp of the entropy of the singular values of the embeddings about their mean, as
            shares of their sum: d if all directions are used equally, 1 if they lie on a line. Roy and
            Vetterli, "The effective rank", EUSIPCO 2007; for collapse as in Garrido et al., "RankMe", ICML
            2023.
    """

    embedding_std: float
    effective_rank: float


def embedding_statistics(embeddings: Float[np.ndarray, "n d"]) -> EmbeddingStatistics:
    """The statistics of embeddings; 0 and 1 for a single point, or none.

    n d^2 operations in float64, block by block of rows.
    """
    n, d = embeddings.shape
    if not n:
        return EmbeddingStatistics(0.0, 1.0)
    blocks = np.array_split(embeddings, -(-n // BLOCK))
    mean = sum(np.sum(block, axis=0, dtype=np.float64) for block in blocks) / n
    scatter = np.zeros((d, d))
    for block in blocks:
        centered = block - mean
        scatter += centered.T @ centered
    variances = np.clip(np.linalg.eigvalsh(scatter / n), 0, None)
    total = float(variances.sum())
    if total <= ROUNDING**2 * float(mean @ mean):
        return EmbeddingStatistics(0.0, 1.0)
    singular = np.sqrt(variances)
    shares = singular[singular > 0] / singular.sum()
    return EmbeddingStatistics(total**0.5, float(np.exp(-(shares * np.log(shares)).sum())))


BLOCK = 2**14
"""Rows that are converted to float64 at a time."""

ROUNDING = 1e-6
"""Standard deviation relative to the mean that float32 rounding alone causes."""


@dataclass
class Alarm:
    """A warning that is given once, and again only after its cause was gone."""

    warn: Callable[[str], None]
    on: bool = False

    def set(self, wrong: bool, text: str) -> None:
        """Give the warning if `wrong` has become true."""
        if wrong and not self.on:
            self.warn(f"warning: {text}")
        self.on = wrong


@dataclass
class Collapse:
    """Warns when embeddings have collapsed.

    Attributes:
        warn: receives the warning.
        classes: the number of training classes; embeddings of few classes use few directions.
    """

    warn: Callable[[str], None]
    classes: int
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.warn)

    def row(self, step: int, embeddings: Float[np.ndarray, "n d"]) -> dict[str, float]:
        """The fields to log for the embeddings of an evaluation."""
        found = embedding_statistics(embeddings)
        min_rank = min(MIN_RANK, (self.classes - 1) / 2)
        low_std = found.embedding_std < MIN_STD
        low_rank = found.effective_rank < min_rank and min(embeddings.shape) > 2 * min_rank
        sign = (
            f"embedding_std {found.embedding_std:.3g} is below {MIN_STD:g}"
            if low_std
            else f"effective_rank {found.effective_rank:.3g} of {embeddings.shape[1]} dimensions is below "
            f"{min_rank:g}"
        )
        self.alarm.set(
            len(embeddings) > 1 and (low_std or low_rank),
            f"the embeddings collapse at step {step}: {sign}; try a lower optimizer.learning_rate, "
            "semi-hard mining (objective.name=triplet_semihard), a larger margin, or more "
            "data.images_per_class",
        )
        return {name: float(f"{value:.6g}") for name, value in found._asdict().items()}


MIN_STD = 0.1
"""Below this standard deviation embeddings count as collapsed to a point."""

MIN_RANK = 5.0
"""Below this rank embeddings count as collapsed, if there are enough classes for more."""


@dataclass
class MiningCounts:
    """Counts of valid quadruplets since the last row of metrics.jsonl.

    The record of a checkpoint between two rows holds the counts, so that a resumed run writes the same rows
    as an undisturbed one.
    """

    warn: Callable[[str], None]
    batches: int = 0
    quadruplets: float = 0.0
    without: int = 0
    alarm: Alarm = field(init=False)

    def __post_init__(self) -> None:
        self.alarm = Alarm(self.warn)

    def resume(self, known: Mapping[str, Any]) -> None:
        """Restore the counts that `known` returned when a checkpoint was saved."""
        self.batches, self.quadruplets = known["batches"], known["quadruplets"]
        self.without = known["without"]

    def observe(self, step: int, logs: dict[str, float]) -> None:
        """Count the batch of a step."""
        if VALID in logs:
            self.batches += 1
            self.quadruplets += logs[VALID]
            self.without += logs[VALID] == 0

    def row(self, step: int) -> dict[str, float]:
        """The fields to log for the batches since the last row; none for objectives that do not mine."""
        if not self.batches:
            return {}
        self.alarm.set(
            self.without > 0,
            f"{self.without} of the {self.batches} batches up to step {step} had no valid quadruplet, and "
            "taught nothing: raise data.classes_per_batch or data.images_per_class",
        )
        found = {VALID: self.quadruplets / self.batches, EMPTY: self.without}
        self.batches, self.quadruplets, self.without = 0, 0.0, 0
        return found

    def fields(self) -> dict[str, Any]:
        """The counts, for the record of a checkpoint."""
        return {"batches": self.batches, "quadruplets": self.quadruplets, "without": self.without}


def counts_of_old(path: Path, step: int) -> dict[str, Any]:
    """The counts at the checkpoint of a step in mining.json, the file of earlier versions.

    Raises:
        ValueError: the file is damaged.
    """
    todo = "delete it, and the counts restart from 0"
    try:
        counts = read_object(path, todo).get(str(step), (0, 0.0, 0))
    except FileNotFoundError:
        counts = (0, 0.0, 0)
    try:
        batches, quadruplets, without = counts
        return {"batches": int(batches), "quadruplets": float(quadruplets), "without": int(without)}
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: the entry of step {step} must be three counts; {todo}"
        ) from error


def total_without(rows: list[dict[str, float]]) -> int | None:
    """The number of batches without quadruplets in a run; None if its objective does not mine."""
    counts = [row[EMPTY] for row in rows if EMPTY in row]
    return int(sum(counts)) if counts else None
