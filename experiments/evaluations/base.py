"""The interface of evaluations: measures of a trained network, and the protocol that they follow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import FrozenConfigDict

from pddm_jax.data import ClosedSet, Images, Split
from pddm_jax.training.state import TrainState

Results = dict[str, Any]

Grid = list[list[str]]
"""A table as rows of cells; the first row is the head."""


class Measured(NamedTuple):
    """What an evaluation finds."""

    protocol: Results
    measures: Results
    report: Callable[[], dict[str, Any]] = dict  # more fields of the report: `report.write.write_run`


class EvaluationContext(NamedTuple):
    """A trained network, and the data on which it is evaluated."""

    config: FrozenConfigDict
    workdir: Path
    split: Split | ClosedSet
    train: Images  # the training images
    seen: Images | None  # held-out images of the training classes
    state: TrainState
    embed: Callable[[Images], np.ndarray]
    embed_test: Callable[[], np.ndarray]  # the embeddings of split.test
    prepared: Any  # the result of `Evaluation.prepare`


class Evaluation(NamedTuple):
    """An evaluation of a trained network.

    Every process calls `measure`, but only process 0 writes files.
    """

    name: str
    measure: Callable[[EvaluationContext], Measured]
    table: Callable[[Results], str]  # the results of a run as text
    grids: Callable[[Results], list[Grid]]  # the tables in that text
    columns: Callable[[Results], dict[str, float | None]]  # columns that compare objectives
    # Reads the other inputs of the evaluation before training, so that errors in them are found early.
    prepare: Callable[[FrozenConfigDict, Split | ClosedSet], Any] = lambda config, split: None
    closed_sets: bool = False  # whether the training data may be a closed set
    fields: str | None = None  # the config group that it reads
    # Fields of the protocol that the config sets, and that may change when a finished run is repeated.
    protocol: Callable[[FrozenConfigDict], Results] = lambda config: {}


def align(rows: Grid) -> str:
    """Rows of cells as text in aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in rows)
