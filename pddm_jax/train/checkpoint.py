"""Checkpoints of the train state by Orbax: saved in the background, verified when they are restored."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from pddm_jax.system import memory, signals
from pddm_jax.system.agreement import any_problem, together
from pddm_jax.system.console import tell
from pddm_jax.system.files import NotWritten, explained, is_full, no_space
from pddm_jax.system.quiet import Quiet
from pddm_jax.system.signals import Preempted
from pddm_jax.train import checkpoint_files
from pddm_jax.train.checkpoint_files import Damaged, Record
from pddm_jax.train.state import TrainState

__all__ = ["Checkpoints", "Preempted", "Resumed"]


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Resumed(NamedTuple):
    """The state to go on from, and what its checkpoint says of the run; None where it says nothing."""

    state: TrainState
    about: Mapping[str, Any] | None


class Checkpoints:
    """The checkpoints of one run: written in the background, each whole or not at all.

    The input needs none: it is a pure function of (seed, step). Within the `with` block SIGTERM and
    SIGHUP are only noted, for `preempted`; when the block ends, all is written, and `Preempted` is raised.

    Kept are the last `max_to_keep` and, where they are `scored`, the best of those saved with a score.
    Damaged ones are set aside as `damaged-<step>` when the block begins, or by `resume`.
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
        self._stop = ""
        self._lost_some = False

    def __enter__(self) -> Self:
        """Begin to listen for signals; where processes are joined, JAX listens for SIGTERM."""
        memory.stop_leaks()
        with ExitStack() as stack:
            self._signals = stack.enter_context(signals.noted())
            stack.enter_context(Quiet())
            with together(), explained(self._folder):
                if jax.process_index() == 0:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    self._survey()
            # Only now: it tidies the folder in a thread, which an end by the former handler would cut off.
            with self._told("opened"):
                handlers = {
                    checkpoint_files.STATE: ocp.StandardCheckpointHandler(),
                    checkpoint_files.RECORD: ocp.JsonCheckpointHandler(),
                }
                self._manager = ocp.CheckpointManager(
                    self._folder, options=self._options, item_names=tuple(handlers), item_handlers=handlers
                )
            self._stack = stack.pop_all()
        return self

    def _survey(self) -> None:
        """Set aside what cannot be restored, as far as is seen without reading the arrays."""
        for step in checkpoint_files.steps_in(self._folder):
            try:
                checkpoint_files.read_record(self._folder, step)
            except Damaged as error:
                self._set_aside(step, str(error))
                break

    def _set_aside(self, step: int, problem: str) -> None:
        """Rename a damaged checkpoint and, where the best one counts, those that follow it.

        The damaged one may be the best; a run can then only end as if nothing had happened if it makes
        that step again.
        """
        self._lost_some = True
        target = checkpoint_files.set_aside(self._folder, step, "damaged")
        tell(f"checkpoint {self._folder / str(step)} is damaged: {problem}; it is now {target.name}")
        for later in checkpoint_files.steps_in(self._folder):
            if later < step:
                continue
            if self._scored:
                checkpoint_files.set_aside(self._folder, later, "unused")
                tell(f"step {later} will be made again, since the best checkpoint may be the damaged one")
                continue
            try:
                checkpoint_files.read_record(self._folder, later)
            except Damaged as error:
                self._set_aside(later, str(error))
                break

    def preempted(self, step: int) -> bool:
        """Whether a signal came, to any process: all of them hear of it at the same step.

        Raises:
            NotWritten: the last checkpoint could not be written.
        """
        with self._told("saved"):
            self._manager.check_for_errors()
        if not self._stop:
            reached = self._signals.name or "SIGTERM" if self._manager.reached_preemption(step) else ""
            self._stop = self._signals.came() or reached
        return bool(self._stop)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint of highest score, None where none was saved with one."""
        with self._told("saved"):
            self._manager.wait_until_finished()
        return self._manager.best_step() if self._scored else None

    def wait(self) -> None:
        """Wait until what is being written is written."""
        with self._told("saved"):
            self._manager.wait_until_finished()

    def resume(self, like: TrainState) -> Resumed | None:
        """The newest checkpoint that is intact, after those that are not are set aside; None without one.

        Where the best counts, it must be there and intact too: else the run goes on from one before it.
        """
        while (latest := self.latest_step()) is not None:
            for step in dict.fromkeys([self.best_step() or latest, latest]):
                state, record, problem = self._attempt(step, like)
                if problem:
                    break
            problem = problem or self._lost(record.scores or {})
            if not problem:
                self._scores = dict(record.scores or {})
                if record.arrays is None and jax.process_index() == 0:
                    tell(f"checkpoint {self._folder / str(latest)} has no digests, and is not verified")
                return Resumed(state, record.about)
            with together(), explained(self._folder):
                if jax.process_index() == 0:
                    self._set_aside(step, problem)
            self._manager.reload()
        if self._lost_some and jax.process_index() == 0:
            tell(f"no checkpoint in {self._folder} can be used: the run starts anew")
        return None

    def leave_out(self, step: int) -> bool:
        """Set an intact checkpoint aside as `unused-<step>`, so that the run does not go on from it.

        Returns:
            Whether another is left to go on from; where none would be, nothing is set aside.
        """
        steps = self._manager.all_steps()
        if step not in steps:
            return True
        with together():
            others = [other for other in steps if other != step and self._is_usable(other)]
        if not others:
            return False
        with together(), explained(self._folder):
            if jax.process_index() == 0:
                checkpoint_files.set_aside(self._folder, step, "unused")
        self._manager.reload()
        return True

    def _is_usable(self, step: int) -> bool:
        """Whether a run can go on from a checkpoint, as far as is seen without reading the arrays."""
        try:
            return not self._lost(checkpoint_files.read_record(self._folder, step).scores or {})
        except Damaged:
            return False

    def _lost(self, scores: Mapping[int, float]) -> str:
        """That the best of these scores belongs to a checkpoint that is not there; "" where it is."""
        best = max(scores, key=lambda step: (scores[step], step), default=None)
        if not self._scored or best is None or best in self._manager.all_steps():
            return ""
        return f"the best checkpoint before it, of step {best}, is missing"

    def _attempt(self, step: int, like: TrainState) -> tuple[TrainState, Record, str]:
        """A state, its record, and why no process may use them."""
        state, record, problem = like, Record(None), ""
        with together():
            try:
                record = checkpoint_files.read_record(self._folder, step)
                state = checkpoint_files.read_state(self._folder, step, like)
            except Damaged as error:
                problem = str(error)
        return state, record, any_problem(problem)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The checkpoint of a step, in the structure and sharding of `like`, verified.

        Raises:
            Damaged: it is not what was saved.
        """
        state, _, problem = self._attempt(step, like)
        if problem:
            raise Damaged(
                f"checkpoint {self._folder / str(step)} is damaged: {problem}; the same command sets it "
                "aside and goes on from one before it"
            )
        return state

    def save(
        self,
        step: int,
        state: TrainState,
        score: float | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Start writing a checkpoint of this step, unless there is one.

        Args:
            step: of the state.
            state: what is saved.
            score: what the best is chosen by.
            about: what a JSON file can say of the run, for `resume`.

        Raises:
            NotWritten: this checkpoint or the last one could not be written.
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
        with self._told("saved"):
            self._manager.wait_until_finished()
            memory.trim()
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics, force=True)

    @contextmanager
    def _told(self, done: str) -> Iterator[None]:
        """One line for what went wrong in writing."""
        try:
            yield
        except Exception as error:
            whole = checkpoint_files.steps_in(self._folder)
            kept = (
                f"the last whole checkpoint is of step {whole[-1]}"
                if whole
                else "no checkpoint is whole yet"
            )
            if is_full(error):
                raise no_space(self._folder, kept) from error
            if isinstance(error, NotWritten):
                raise
            with explained(self._folder, kept):
                if isinstance(error, OSError):
                    raise
            line = " ".join(str(error).split())[:300]
            raise NotWritten(
                5, f"{self._folder}: a checkpoint could not be {done}: {line}; {kept}"
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is being written, and hand the signals back."""
        try:
            with self._told("saved"):
                self._manager.close()
        except NotWritten:
            if error is None:
                raise
        finally:
            self._stack.close()
        stop = self._stop or ("" if jax.distributed.is_initialized() else self._signals.came())
        if error is None and stop:
            raise Preempted(0, stop)
