"""Checkpoints of the train state by Orbax, and the signal that asks for one."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import orbax.checkpoint as ocp

from pddm_jax.training import TrainState


def exit_on_sigterm() -> None:
    """Let SIGTERM end the process with status 0: for the times when there is nothing to save."""
    if not jax.distributed.is_initialized():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))


class Checkpoints:
    """The checkpoints of one run: written in the background, each whole or not at all.

    The input needs none: it is a pure function of (seed, step).
    """

    def __init__(self, folder: Path, max_to_keep: int) -> None:
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=max_to_keep, cleanup_tmp_directories=True),
        )
        self._preempted = False
        if not jax.distributed.is_initialized():  # which listens for the signal itself
            signal.signal(signal.SIGTERM, self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._preempted = True

    def preempted(self, step: int) -> bool:
        """Whether SIGTERM came, to any process: all of them hear of it at the same step."""
        return self._preempted or self._manager.reached_preemption(step)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, in the structure and sharding of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(self._manager.latest_step(), args=ocp.args.StandardRestore(abstract))

    def save(self, step: int, state: TrainState) -> None:
        """Start writing a checkpoint of this step, unless there is one."""
        if step != self._manager.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        """Wait for what is being written; from then on SIGTERM ends the process at once."""
        self._manager.wait_until_finished()
        self._manager.close()
        exit_on_sigterm()
