"""What a run leaves to be read: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Self

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from pddm_jax.files import write_text

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def tell(text: str) -> None:
    """A line for who watches, in one piece: Ctrl-C between two writes, as `print` makes, would cut it."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Writer:
    """Rows of numbers by step, and the seconds since the run began; only process 0 writes them down.

    Started at a step, it drops what an earlier run wrote beyond it, so that a run that was killed
    and goes on leaves the same rows as one that never stopped.
    """

    def __init__(self, workdir: Path, start: int, steps: int, writes: bool) -> None:
        path = workdir / "metrics.jsonl"
        self.rows = [row for row in read_rows(path) if row["step"] <= start]
        self._before = self.rows[-1]["seconds"] if self.rows else 0.0
        self._since = time.perf_counter()
        self._writes = writes
        if writes:
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
            self._file = path.open("a", encoding="utf-8")
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
        self._events.write_event(Event(wall_time=time.time(), step=step, **told))
        self._events.flush()  # so that a kill leaves the rows that metrics.jsonl has

    def progress(self, step: int) -> None:
        """Move the progress bar."""
        if self._writes:
            self._bar.update(step - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._writes:
            self._bar.close()
            self._events.close()
            self._file.close()
