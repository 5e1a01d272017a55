"""What an evaluation is: measures of a trained network, under a protocol that its results state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import FrozenConfigDict

from pddm_jax.data import ClosedSet, Images, Split
from pddm_jax.training.state import TrainState

Results = dict[str, Any]


class EvaluationContext(NamedTuple):
    """A trained network, and the data that it is evaluated on."""

    config: FrozenConfigDict
    workdir: Path
    split: Split | ClosedSet
    train: Images  # the training images
    seen: Images | None  # held-out images of the training classes
    state: TrainState
    embed: Callable[[Images], np.ndarray]
    prepared: Any  # the result of `Evaluation.prepare`


class Evaluation(NamedTuple):
    """An evaluation of a trained network.

    Every process calls `measure`; files are for process 0 alone to write.
    """

    name: str
    measure: Callable[[EvaluationContext], tuple[Results, Results]]  # fields of the protocol; measures
    table: Callable[[Results], str]  # the results of a run as text
    columns: Callable[[Results], dict[str, float | None]]  # measures that objectives are compared by
    # Reads what the evaluation needs beside the network before training, so that mistakes are found first.
    prepare: Callable[[FrozenConfigDict, Split | ClosedSet], Any] = lambda config, split: None
    closed_sets: bool = False  # whether networks that were trained on all classes can be evaluated, too
    fields: str | None = None  # the group of the config that it reads


def align(rows: list[list[str]]) -> str:
    """Rows of cells as text, in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in rows)
