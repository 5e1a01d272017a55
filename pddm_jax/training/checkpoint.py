"""Orbax checkpoints of the train state: saved in the background, verified against digests when restored."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from pddm_jax.system import memory, signals
from pddm_jax.system.agreement import any_problem, share_errors
from pddm_jax.system.console import print_line
from pddm_jax.system.files import NotWritten, explain_errors
from pddm_jax.system.quiet import SuppressLogs
from pddm_jax.system.signals import Preempted
from pddm_jax.training import checkpoint_files
from pddm_jax.training.checkpoint_files import CheckpointRecord, Damaged
from pddm_jax.training.state import TrainState

__all__ = ["Checkpoints", "Preempted", "Resumed"]


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Resumed(NamedTuple):
    """The restored state and the `about` fields of its checkpoint, None if it was saved without them."""

    state: TrainState
    about: Mapping[str, Any] | None


class Checkpoints:
    """The checkpoints of one run: each is written atomically, in the background.

    The input pipeline has no state to save: a batch is a function of (seed, step). Inside the `with` block
    SIGTERM and SIGHUP do not end the process: `preempted` reports them, and `Preempted` is raised on exit.

    The newest `max_to_keep` checkpoints are kept and, if `scored`, also the one with the highest score.
    On entry to the block and by `resume`, damaged checkpoints are renamed to `damaged-<step>`, and if
    checkpoints are scored, later ones to `unused-<step>`.
    """

    def __init__(self, folder: Path, max_to_keep: int, scored: bool = False) -> None:
        best = keep.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        self._folder = folder.absolute()
        self._options = ocp.CheckpointManagerOptions(
            best_fn=_score if scored else None,
            preservation_policy=keep.AnyPreservationPolicy(
                [keep.LatestN(max_to_keep), *([best] if scored else [])]
            ),
            cleanup_tmp_directories=True,
        )
        self._scored = scored
        self._scores: dict[int, float] = {}
        self._stop_signal = ""
        self._has_renamed = False

    def __enter__(self) -> "Checkpoints":
        """Install the signal handlers and open the folder; in a distributed run JAX handles SIGTERM."""
        memory.stop_leaks()
        with ExitStack() as stack:
            self._signals = stack.enter_context(signals.deferred())
            stack.enter_context(SuppressLogs())
            with share_errors(), explain_errors(self._folder):
                if jax.process_index() == 0:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._rename_incomplete()
            # The handlers come first: CheckpointManager deletes temporary folders in a thread, and a signal
            # must not end the process meanwhile.
            with checkpoint_files.orbax_errors(self._folder, "open the checkpoint folder"):
                handlers = {
                    checkpoint_files.STATE: ocp.StandardCheckpointHandler(),
                    checkpoint_files.RECORD: ocp.JsonCheckpointHandler(),
                }
                self._manager = ocp.CheckpointManager(
                    self._folder, options=self._options, item_names=tuple(handlers), item_handlers=handlers
                )
            self._stack = stack.pop_all()
        return self

    def _rename_incomplete(self) -> None:
        """Rename checkpoints with missing or inconsistent files; the arrays are not read."""
        for step in checkpoint_files.steps_in(self._folder):
            try:
                checkpoint_files.read_record(self._folder, step)
            except Damaged as error:
                self._rename_damaged(step, str(error))
                break

    def _rename_damaged(self, step: int, problem: str) -> None:
        """Rename a damaged checkpoint to `damaged-<step>`.

        If checkpoints are scored, all later ones are renamed to `unused-<step>`: the damaged one may be the
        best, so training resumes before it.
        """
        self._has_renamed = True
        target = checkpoint_files.rename_checkpoint(self._folder, step, "damaged")
        print_line(f"checkpoint {self._folder / str(step)} is damaged: {problem}; renamed to {target.name}")
        for later in checkpoint_files.steps_in(self._folder):
            if later < step:
                continue
            if self._scored:
                self._rename_unused(later, f"training resumes before the damaged checkpoint {step}")
                continue
            try:
                checkpoint_files.read_record(self._folder, later)
            except Damaged as error:
                self._rename_damaged(later, str(error))
                break

    def _rename_unused(self, step: int, reason: str) -> None:
        """Rename an intact checkpoint that the run does not resume from to `unused-<step>`."""
        self._has_renamed = True
        target = checkpoint_files.rename_checkpoint(self._folder, step, "unused")
        print_line(f"checkpoint {self._folder / str(step)} is not used: {reason}; renamed to {target.name}")

    def preempted(self, step: int) -> bool:
        """Whether any process has received SIGTERM or SIGHUP; all processes return True at the same step.

        Raises:
            NotWritten: the last checkpoint could not be written.
        """
        with checkpoint_files.orbax_errors(self._folder, "save the checkpoint"):
            self._manager.check_for_errors()
        if not self._stop_signal:
            reached = self._manager.reached_preemption(step)
            name = (self._signals.name or "SIGTERM") if reached else ""
            self._stop_signal = self._signals.received() or name
        return bool(self._stop_signal)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint with the highest score; None if none has a score."""
        with checkpoint_files.orbax_errors(self._folder, "save the checkpoint"):
            self._manager.wait_until_finished()
        return self._manager.best_step() if self._scored else None

    def wait(self) -> None:
        """Wait until the last checkpoint is written."""
        with checkpoint_files.orbax_errors(self._folder, "save the checkpoint"):
            self._manager.wait_until_finished()

    def resume(self, like: TrainState) -> Resumed | None:
        """Restore the newest intact checkpoint and rename damaged ones; None if none is intact.

        If checkpoints are scored, the best one is verified as well. If it is damaged or missing, the run
        resumes from a checkpoint saved before it.
        """
        while (latest := self.latest_step()) is not None:
            best = self.best_step() or latest
            state, record, problem = self._try_restore(best, like)
            damaged = best
            if best != latest and not problem:
                state, record, problem = self._try_restore(latest, like)
                damaged = latest
            missing = None if problem else self._missing_best(record.scores or {})
            if not problem and missing is None:
                self._scores = dict(record.scores or {})
                if record.arrays is None and jax.process_index() == 0:
                    print_line(f"checkpoint {self._folder / str(latest)} has no digests: not verified")
                return Resumed(state, record.about)
            with share_errors(), explain_errors(self._folder):
                if jax.process_index() == 0 and problem:
                    self._rename_damaged(damaged, problem)
                elif jax.process_index() == 0:
                    self._rename_unused(latest, f"the best checkpoint, of step {missing}, is missing")
            self._manager.reload()
        if self._has_renamed and jax.process_index() == 0:
            print_line(f"no usable checkpoint in {self._folder}: the run starts anew")
        return None

    def mark_unused(self, step: int) -> bool:
        """Rename an intact checkpoint to `unused-<step>`, so that the run does not resume from it.

        Returns:
            False if there is no other checkpoint to resume from; then nothing is renamed.
        """
        steps = self._manager.all_steps()
        if step not in steps:
            return True
        with share_errors():
            others = [other for other in steps if other != step and self._is_usable(other)]
        if not others:
            return False
        with share_errors(), explain_errors(self._folder):
            if jax.process_index() == 0:
                self._rename_unused(step, "the longer run does not evaluate at this step")
        self._manager.reload()
        return True

    def _is_usable(self, step: int) -> bool:
        """Whether a run can resume from a checkpoint; the arrays are not read."""
        try:
            record = checkpoint_files.read_record(self._folder, step)
        except Damaged:
            return False
        return self._missing_best(record.scores or {}) is None

    def _missing_best(self, scores: Mapping[int, float]) -> int | None:
        """The step with the best of these scores, if its checkpoint is missing; None if it exists."""
        best = max(scores, key=lambda step: (scores[step], step), default=None)
        if not self._scored or best is None or best in self._manager.all_steps():
            return None
        return best

    def _try_restore(self, step: int, like: TrainState) -> tuple[TrainState, CheckpointRecord, str]:
        """Read a state and its record; also the first error message of any process, or an empty string."""
        state, record, problem = like, CheckpointRecord(None), ""
        with share_errors():
            try:
                record = checkpoint_files.read_record(self._folder, step)
                state = checkpoint_files.read_state(self._folder, step, like)
            except Damaged as error:
                problem = str(error)
        return state, record, any_problem(problem)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Restore and verify the state of a step, in the structure and sharding of `like`.

        Raises:
            Damaged: the checkpoint differs from what was saved.
        """
        state, _, problem = self._try_restore(step, like)
        if problem:
            raise Damaged(
                f"checkpoint {self._folder / str(step)} is damaged: {problem}; repeat the command to "
                "resume from an earlier checkpoint"
            )
        return state

    def save(
        self,
        step: int,
        state: TrainState,
        score: float | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Start writing a checkpoint of this step, unless it is the newest one already.

        Args:
            step: training step of the state.
            state: the state to save.
            score: validation score; the checkpoint with the highest is the best.
            about: JSON fields about the run, which `resume` returns.

        Raises:
            NotWritten: this checkpoint or the previous one could not be written.
        """
        if step == self._manager.latest_step():
            return
        metrics = None if score is None else {"score": score}
        if score is not None:
            self._scores[step] = score
        record = checkpoint_files.make_record(step, state, self._scores, about)
        args = {
            checkpoint_files.STATE: ocp.args.StandardSave(state),
            checkpoint_files.RECORD: ocp.args.JsonSave(record),
        }
        with checkpoint_files.orbax_errors(self._folder, "save the checkpoint"):
            self._manager.wait_until_finished()
            memory.trim()
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics, force=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the last checkpoint, restore the handlers, and raise `Preempted` after a signal."""
        try:
            with checkpoint_files.orbax_errors(self._folder, "save the checkpoint"):
                self._manager.close()
        except NotWritten:
            if error is None:
                raise
        finally:
            self._stack.close()
        stop = self._stop_signal or ("" if jax.distributed.is_initialized() else self._signals.received())
        if error is None and stop:
            raise Preempted(0, stop)
