"""Checkpoints of the train state by Orbax, and the signal that asks for one."""

import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from pddm_jax.training import TrainState


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]


class Preempted(SystemExit):
    """SIGTERM came and the state is saved: ends the process with status 0 unless caught."""


class Checkpoints:
    """The checkpoints of one run: written in the background, each whole or not at all.

    The input needs none: it is a pure function of (seed, step). Within the `with` block SIGTERM is
    only noted, for `preempted`; when the block ends, all is written, and `Preempted` is raised.

    Kept are the last `max_to_keep` and, where they are `scored`, the best of those saved with a score.
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
        self._preempted = False

    def __enter__(self) -> Self:
        """Begin to listen for SIGTERM; where processes are joined, JAX listens for all of them."""
        self._handler = None
        if not jax.distributed.is_initialized():
            self._handler = signal.signal(signal.SIGTERM, self._note)
        # Only now: it tidies the folder in a thread, which an end by the former handler would cut off.
        self._manager = ocp.CheckpointManager(self._folder, options=self._options)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._preempted = True

    def preempted(self, step: int) -> bool:
        """Whether SIGTERM came, to any process: all of them hear of it at the same step."""
        self._preempted = self._preempted or self._manager.reached_preemption(step)
        return self._preempted

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step of the checkpoint of highest score, None where none was saved with one."""
        self._manager.wait_until_finished()
        return self._manager.best_step() if self._scored else None

    def wait(self) -> None:
        """Wait until what is being written is written."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The checkpoint of a step, in the structure and sharding of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def save(self, step: int, state: TrainState, score: float | None = None) -> None:
        """Start writing a checkpoint of this step, unless there is one."""
        if step != self._manager.latest_step():
            metrics = None if score is None else {"score": score}
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics, force=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is being written, and hand SIGTERM back."""
        try:
            self._manager.close()
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)
        if self._preempted and error is None:
            raise Preempted(0)


def restore_chosen(folder: Path, like: TrainState, scored: bool) -> TrainState:
    """The checkpoint of highest score where they are scored, or else the newest; nothing is written.

    Raises:
        FileNotFoundError: there is none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint")
    options = ocp.CheckpointManagerOptions(read_only=True, best_fn=_score if scored else None)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        best = manager.best_step() if scored else None
        step = manager.latest_step() if best is None else best
        if step is None:
            raise FileNotFoundError(f"{folder} holds no checkpoint")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return manager.restore(step, args=ocp.args.StandardRestore(abstract))
