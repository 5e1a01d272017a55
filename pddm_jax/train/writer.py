"""What a run leaves to be read: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from pddm_jax.system.agreement import from_first, together
from pddm_jax.system.console import tell
from pddm_jax.system.files import explained, write_text

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


class Known(NamedTuple):
    """What a checkpoint knows of the rows up to its step: as much after a million rows as after one.

    Attributes:
        size: bytes of the lines of metrics.jsonl before the rows of its own step.
        sha256: of these bytes.
        rows: of its own step, since a run that is extended may have others at that step.
        before: the rows before these, which only checkpoints of earlier versions hold.
    """

    size: int
    sha256: str
    rows: list[Row]
    before: list[Row] | None = None


def known_rows(about: Mapping[str, Any]) -> Known:
    """What the `about` of a checkpoint says of the rows; that of earlier versions held all of them."""
    if "metrics" in about:
        return Known(**about["metrics"])
    rows: list[Row] = about["rows"]
    before = [row for row in rows if row["step"] < rows[-1]["step"]]
    lines = "".join(_line(row) for row in before).encode()
    return Known(len(lines), hashlib.sha256(lines).hexdigest(), rows[len(before) :], before)


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _settled(path: Path, start: int, known: Known | None) -> list[Row]:
    """The rows up to a step: those that its checkpoint knows, where it does, or else those in the file.

    Raises:
        ValueError: neither the file nor its copy holds the rows that the checkpoint knows.
    """
    if not start:
        return []
    if known is None:
        return [row for row in read_rows(path) if row["step"] <= start]
    found = _verified(path, known)
    if found is None:
        try:
            read_rows(path)
            problem = f"{path} differs from what the checkpoint of step {start} knows"
        except ValueError as error:
            problem = str(error).partition(";")[0]
        found = known.before if known.before is not None else _verified(copy_of(path), known)
        if found is None:
            raise ValueError(
                f"{problem}, and its copy {copy_of(path)} does too: put one of them back, or delete "
                f"{path.parent / 'checkpoints'} to begin the run anew"
            )
        tell(f"{problem}; it is written again from its copy")
    return found + known.rows


def _verified(path: Path, known: Known) -> list[Row] | None:
    """The rows of a file before those of the checkpoint's own step; None where it is not as it was."""
    try:
        with path.open("rb") as file:
            lines = file.read(known.size)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        lines = b""
    if len(lines) != known.size or hashlib.sha256(lines).hexdigest() != known.sha256:
        return None
    return [json.loads(line) for line in lines.splitlines()]


def copy_of(path: Path) -> Path:
    """Where the same rows are written a second time, to mend the first by."""
    return path.parent / "tensorboard" / path.name


class Writer:
    """Rows of numbers by step, and the seconds since the run began; only process 0 writes them down.

    Started at a step, it drops what an earlier run wrote beyond it, so that a run that was killed
    and goes on leaves the same rows as one that never stopped.

    Args:
        workdir: of the run.
        start: the step that it goes on from; 0 = it begins.
        steps: the last step.
        writes: whether this process writes.
        known: what the checkpoint of `start` knows of the rows; the file is verified by it, and mended
            from its copy.

    Raises:
        ValueError: the file is damaged, and so is its copy, or the rows are not known.
        NotWritten: there is no space; also by `row`.
    """

    def __init__(
        self, workdir: Path, start: int, steps: int, writes: bool, known: Known | None = None
    ) -> None:
        path = self._path = workdir / "metrics.jsonl"
        with together():
            rows = _settled(path, start, known) if writes else []
        rows = json.loads(from_first(json.dumps(rows))) if start else []
        self._lines = [_line(row) for row in rows]  # a third of the memory of the rows themselves
        self._before = rows[-1]["seconds"] if rows else 0.0
        self._since = time.perf_counter()
        self._writes = writes
        self._size, self._sha256, self._newest = 0, hashlib.sha256(), list[Row]()
        for row in rows:
            self._count(row)
        if not writes:
            return
        text = "".join(self._lines)
        write_text(path, text)
        self._file = path.open("a", encoding="utf-8")
        with explained(workdir / "tensorboard"):
            write_text(copy_of(path), text)
            self._copy = copy_of(path).open("a", encoding="utf-8")
            # Not its SummaryWriter, whose thread can wait for ever once Ctrl-C has struck.
            self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        self._event(start + 1, session_log=SessionLog(status=SessionLog.START))  # drops what is beyond
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=None)

    @property
    def rows(self) -> list[Row]:
        """All rows so far."""
        return [json.loads(line) for line in self._lines]

    def _count(self, row: Row) -> None:
        """Take a row into the digest, once one of a later step has come."""
        if self._newest and self._newest[0]["step"] < row["step"]:
            self._fold()
        self._newest.append(row)

    def _fold(self) -> None:
        lines = "".join(_line(row) for row in self._newest).encode()
        self._size += len(lines)
        self._sha256.update(lines)
        self._newest = []

    def known(self, step: int) -> dict[str, Any]:
        """What the checkpoint of a step is to know of the rows so far, as `known_rows` takes it."""
        if self._newest and self._newest[0]["step"] < step:
            self._fold()
        return {"size": self._size, "sha256": self._sha256.hexdigest(), "rows": [*self._newest]}

    def row(self, step: int, values: dict[str, float]) -> None:
        """Append a row, and say it where there is no progress bar."""
        seconds = self._before + time.perf_counter() - self._since
        row = {"step": step, **values, "seconds": round(seconds, 3)}
        line = _line(row)
        self._lines.append(line)
        self._count(row)
        if not self._writes:
            return
        with explained(self._path):
            for file in (self._file, self._copy):
                file.write(line)
                file.flush()
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
                try:
                    self._copy.close()
                finally:
                    self._file.close()
