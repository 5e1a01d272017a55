"""Logs of a run: rows in metrics.jsonl, TensorBoard events, and a progress bar or plain lines."""

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from pddm_jax.system.agreement import from_first, share_errors
from pddm_jax.system.console import print_line
from pddm_jax.system.files import explain_errors, write_text

Row = dict[str, Any]

COMPILING = "compiling ..."
"""Shown until the first step is done. XLA first compiles it, which takes seconds to minutes."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        ValueError: another line is not a row, or the steps are out of order; the message names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    rows: list[Row] = []
    for number, line in enumerate(lines[:-1], 1):
        row, previous = _row(line), rows[-1]["step"] if rows else 0
        problem = (
            "is not a row" if row is None else f"is of step {row['step']}, after one of step {previous}"
        )
        if row is None or row["step"] < previous:
            raise ValueError(
                f"{path} is damaged: line {number} {problem}; correct or delete that line, then repeat the "
                "command"
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


class RowsDigest(NamedTuple):
    """What a checkpoint stores to verify metrics.jsonl, in constant size.

    Attributes:
        size: number of bytes of the rows before the step of the checkpoint.
        sha256: SHA-256 of these bytes.
        rows: the rows at the step itself, stored in full because extending a run can change them.
        before: the rows before the step; only in checkpoints of earlier versions, which stored all rows.
    """

    size: int
    sha256: str
    rows: list[Row]
    before: list[Row] | None = None


def rows_digest(about: Mapping[str, Any]) -> RowsDigest:
    """The digest of the rows in the `about` of a checkpoint; earlier versions stored all rows."""
    if "metrics" in about:
        return RowsDigest(**about["metrics"])
    rows: list[Row] = about["rows"]
    before = [row for row in rows if row["step"] < rows[-1]["step"]]
    lines = "".join(_line(row) for row in before).encode()
    return RowsDigest(len(lines), hashlib.sha256(lines).hexdigest(), rows[len(before) :], before)


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _rows_until(path: Path, start: int, known: RowsDigest | None) -> list[Row]:
    """The rows up to step `start`, verified by the digest of its checkpoint; from the copy if they differ.

    Without a digest, the rows of the file are returned unverified.

    Raises:
        ValueError: neither the file nor its copy has the digest.
    """
    if not start:
        return []
    if known is None:
        return [row for row in read_rows(path) if row["step"] <= start]
    found = _verified(path, known)
    if found is None:
        try:
            read_rows(path)
            problem = f"{path} does not match its digest in the checkpoint of step {start}"
        except ValueError as error:
            problem = str(error).partition(";")[0]
        found = known.before if known.before is not None else _verified(copy_of(path), known)
        if found is None:
            raise ValueError(
                f"{problem}; its copy {copy_of(path)} is damaged too: restore one of them, or delete "
                f"{path.parent / 'checkpoints'} to start the run over"
            )
        print_line(f"{problem}; restored from its copy")
    return found + known.rows


def _verified(path: Path, known: RowsDigest) -> list[Row] | None:
    """The rows of a file before the step of a checkpoint; None if their digest differs."""
    try:
        with path.open("rb") as file:
            lines = file.read(known.size)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        lines = b""
    if len(lines) != known.size or hashlib.sha256(lines).hexdigest() != known.sha256:
        return None
    return [json.loads(line) for line in lines.splitlines()]


def copy_of(path: Path) -> Path:
    """The path of the copy of the rows, from which a damaged metrics.jsonl is restored."""
    return path.parent / "tensorboard" / path.name


class Writer:
    """Writes the rows of a run to metrics.jsonl, to its copy and to TensorBoard, and shows the progress.

    A row holds the step, the metrics, and the seconds since the run started. Only process 0 writes. Rows
    after step `start`, which an interrupted run wrote after its last checkpoint, are dropped, so that a
    resumed run leaves the same rows as an uninterrupted one.

    Args:
        workdir: of the run.
        start: the step to resume from; 0 = a new run.
        steps: the last step.
        writes: whether this process writes.
        known: the digest of the rows in the checkpoint of `start`, which verifies the file; a damaged file
            is restored from its copy.

    Raises:
        ValueError: the file is damaged, and its copy too.
        NotWritten: the files cannot be written (disk full, read-only, no permission); `row` raises it too.
    """

    def __init__(
        self, workdir: Path, start: int, steps: int, writes: bool, known: RowsDigest | None = None
    ) -> None:
        path = self._path = workdir / "metrics.jsonl"
        with share_errors():
            rows = _rows_until(path, start, known) if writes else []
        rows = json.loads(from_first(json.dumps(rows))) if start else []
        self._lines = [_line(row) for row in rows]  # a third of the memory of the rows themselves
        self._elapsed_before = rows[-1]["seconds"] if rows else 0.0
        self._since = time.perf_counter()
        self._writes = writes
        self._size, self._sha256, self._newest = 0, hashlib.sha256(), list[Row]()
        for row in rows:
            self._add_to_digest(row)
        if not writes:
            return
        text = "".join(self._lines)
        write_text(path, text)
        self._file = path.open("a", encoding="utf-8")
        with explain_errors(workdir / "tensorboard"):
            write_text(copy_of(path), text)
            self._copy = copy_of(path).open("a", encoding="utf-8")
            # Not SummaryWriter: its thread can wait forever after Ctrl-C.
            self._events = EventsWriter(str(workdir / "tensorboard" / "events"))
        # TensorBoard then ignores the events of an interrupted run after step `start`.
        self._event(start + 1, session_log=SessionLog(status=SessionLog.START))
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=None)
        self._compiles = start < steps
        if self._compiles:
            self._show(COMPILING, COMPILING)

    @property
    def rows(self) -> list[Row]:
        """All rows so far."""
        return [json.loads(line) for line in self._lines]

    def _add_to_digest(self, row: Row) -> None:
        """Add a row to the newest ones; those of an earlier step go into the digest first."""
        if self._newest and self._newest[0]["step"] < row["step"]:
            self._hash_newest()
        self._newest.append(row)

    def _hash_newest(self) -> None:
        lines = "".join(_line(row) for row in self._newest).encode()
        self._size += len(lines)
        self._sha256.update(lines)
        self._newest = []

    def digest_fields(self, step: int) -> dict[str, Any]:
        """The digest of the rows so far, for the checkpoint of a step; `rows_digest` reads it."""
        if self._newest and self._newest[0]["step"] < step:
            self._hash_newest()
        return {"size": self._size, "sha256": self._sha256.hexdigest(), "rows": [*self._newest]}

    def row(self, step: int, values: dict[str, float]) -> None:
        """Append a row, and show it after the progress bar or in a line."""
        seconds = self._elapsed_before + time.perf_counter() - self._since
        row = {"step": step, **values, "seconds": round(seconds, 3)}
        line = _line(row)
        self._lines.append(line)
        self._add_to_digest(row)
        if not self._writes:
            return
        with explain_errors(self._path):
            for file in (self._file, self._copy):
                file.write(line)
                file.flush()
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._event(step, summary=Summary(value=scalars))
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        self._show(text, f"step {step}  {text}")

    def _show(self, postfix: str, line: str) -> None:
        """Show the postfix after the progress bar, or write the line if there is no bar."""
        if self._bar.disable:
            print_line(line)
        else:
            self._bar.set_postfix_str(postfix)

    def _event(self, step: int, **content: Any) -> None:
        with explain_errors(self._path.parent / "tensorboard"):
            self._events.write_event(Event(wall_time=time.time(), step=step, **content))
            self._events.flush()  # so that a kill leaves the same rows as in metrics.jsonl

    def progress(self, step: int) -> None:
        """Move the progress bar to a step that is done."""
        if not self._writes:
            return
        if self._compiles:
            self._compiles = False
            self._bar.set_postfix_str("", refresh=False)
        self._bar.update(step - self._bar.n)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        if not self._writes:
            return
        self._bar.close()
        # A failure to close must not hide the error of the block.
        with suppress(OSError) if kind is not None else explain_errors(self._path):
            try:
                self._events.close()
            finally:
                try:
                    self._copy.close()
                finally:
                    self._file.close()
