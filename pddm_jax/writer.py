"""What a run leaves to be read: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from pddm_jax.console import tell
from pddm_jax.files import explained, write_text

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that was cut short by a kill is left out.

    Raises:
        ValueError: another line is no row, or the steps are not in order; the message names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], 1):
        row, before = _row(line), rows[-1]["step"] if rows else 0
        problem = "is no row" if row is None else f"is of step {row['step']}, after one of step {before}"
        if row is None or row["step"] < before:
            raise ValueError(
                f"{path} is damaged: line {number} {problem}; correct or delete that line and give the "
                "same command again"
            )
        rows.append(row)
    return rows


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 1:
        return None
    return row if isinstance(row.get("seconds"), int | float) else None


def _settled(path: Path, start: int, known: list[Row] | None) -> list[Row]:
    """The rows up to a step: those that its checkpoint knows, where it does, or else those in the file."""
    if not start:
        return []
    try:
        found = [row for row in read_rows(path) if row["step"] <= start]
    except ValueError as error:
        if known is None:
            raise
        tell(f"{str(error).partition(';')[0]}; it is written again from the checkpoint of step {start}")
        return known
    if known is not None and json.dumps(found) != json.dumps(known):
        tell(
            f"{path} differs from what the checkpoint of step {start} knows; it is written again from that"
        )
    return found if known is None else known


class Writer:
    """Rows of numbers by step, and the seconds since the run began; only process 0 writes them down.

    Started at a step, it drops what an earlier run wrote beyond it, so that a run that was killed
    and goes on leaves the same rows as one that never stopped.

    Args:
        workdir: of the run.
        start: the step that it goes on from; 0 = it begins.
        steps: the last step.
        writes: whether this process writes.
        known: the rows up to `start`, where the checkpoint knows them; the file is mended by them.

    Raises:
        ValueError: the file is damaged, and the rows are not known.
        NotWritten: there is no space; also by `row`.
    """

    def __init__(
        self, workdir: Path, start: int, steps: int, writes: bool, known: list[Row] | None = None
    ) -> None:
        path = self._path = workdir / "metrics.jsonl"
        self.rows = _settled(path, start, known) if writes or known is None else known
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        self._since = time.perf_counter()
        self._writes = writes
        if writes:
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
            self._file = path.open("a", encoding="utf-8")
            with explained(workdir / "tensorboard"):
                (workdir / "tensorboard").mkdir(exist_ok=True)
                # Not its SummaryWriter, whose thread can wait for ever once Ctrl-C has struck.
                self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
            self._event(start + 1, session_log=SessionLog(status=SessionLog.START))  # drops what is beyond
            self._bar = tqdm(total=steps, initial=start, unit="step", disable=None)

    def row(self, step: int, values: dict[str, float]) -> None:
        """Append a row, and say it where there is no progress bar."""
        seconds = self._before + time.perf_counter() - self._since
        row = {"step": step, **values, "seconds": round(seconds, 3)}
        self.rows.append(row)
        if not self._writes:
            return
        with explained(self._path):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._event(step, summary=Summary(value=scalars))
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar.disable:
            tell(f"step {step}  {text}")
        else:
            self._bar.set_postfix_str(text)

    def _event(self, step: int, **told: Any) -> None:
        with explained(self._path.parent / "tensorboard"):
            self._events.write_event(Event(wall_time=time.time(), step=step, **told))
            self._events.flush()  # so that a kill leaves the rows that metrics.jsonl has

    def progress(self, step: int) -> None:
        """Move the progress bar."""
        if self._writes:
            self._bar.update(step - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if not self._writes:
            return
        self._bar.close()
        # What an error has left unwritten must not hide it.
        with suppress(OSError) if kind is not None else explained(self._path):
            try:
                self._events.close()
            finally:
                self._file.close()
