"""Actions after each training step: logging, evaluation, checkpoints, and stopping after a signal."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from pddm_jax.evaluate import metrics
from pddm_jax.system.files import write_sealed
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.diagnosis import Collapse, MiningCounts
from pddm_jax.training.resume import is_due
from pddm_jax.training.setup import Embedder, Training
from pddm_jax.training.state import TrainState
from pddm_jax.training.writer import Writer


@dataclass
class Schedule:
    """Logs, evaluates and saves at the steps that the config sets.

    Attributes:
        training: the config and the data of the run.
        workdir: the folder of the run's files.
        embed: embeds the evaluated images.
        fields: the content of config.json.
        checkpoints: saves the train state.
        writer: writes the rows of metrics.jsonl.
        mined: counts valid quadruplets.
        collapse: warns when embeddings collapse.
        last: the last step that was logged, evaluated or saved.
    """

    training: Training
    workdir: Path
    embed: Embedder
    fields: dict[str, Any]
    checkpoints: Checkpoints
    writer: Writer
    mined: MiningCounts
    collapse: Collapse
    last: int
    _since: float = field(default_factory=time.perf_counter)

    def after_step(self, step: int, state: TrainState, logs: Callable[[], dict[str, float]]) -> bool:
        """Log, evaluate and save what is due; return whether to stop after this step."""
        train = self.training.config.train
        # Only after step 1, so that a run that fails before it does not claim the workdir.
        if step == 1 and jax.process_index() == 0:
            write_sealed(self.workdir / "config.json", self.fields)
        stop = self.checkpoints.preempted(step)
        log, evaluate = self._is_due(step, train.log_every), self._is_due(step, train.eval_every)
        evaluate = evaluate and self.training.evaluated is not None
        scored = evaluate and self.training.validates
        save = stop or scored or self._is_due(step, train.checkpoint_every)
        self.writer.progress(step)
        if not (log or evaluate or save):
            return stop
        values = logs()
        if log:
            self._log(step, values)
        recall = self._evaluate(step, state) if evaluate else None
        if save:
            about = {
                "config": self.fields,
                "metrics": self.writer.digest_fields(step),
                "mining": self.mined.fields(),
            }
            self.checkpoints.save(step, state, recall if scored else None, about)
        self.last, self._since = step, time.perf_counter()
        return stop

    def _is_due(self, step: int, every: int) -> bool:
        return is_due(step, every, self.training.steps)

    def _log(self, step: int, values: dict[str, float]) -> None:
        fields = self.training.config.data
        images = fields.classes_per_batch * fields.images_per_class * (step - self.last)
        rate = round(images / (time.perf_counter() - self._since), 1)
        self.writer.row(step, {**values, **self.mined.row(step), "images_per_second": rate})

    def _evaluate(self, step: int, state: TrainState) -> float:
        """Write a row with the measures of the evaluated images, and return their Recall@1."""
        evaluated = self.training.evaluated
        assert evaluated is not None
        embeddings = self.embed.evaluated(state)
        means = metrics.summarize(metrics.query_measures(embeddings, evaluated.labels), [1])
        recall = means.recall_at_k[1]
        found = {"recall_at_1": recall, "map_at_r": means.map_at_r, **self.collapse.row(step, embeddings)}
        prefix = "validation_" if self.training.validates else ""
        self.writer.row(step, {f"{prefix}{name}": x for name, x in found.items()})
        return recall
