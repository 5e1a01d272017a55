"""One trial each: a fault, the same command again, and the verdict."""

import shutil
import signal
import time
from dataclasses import dataclass

import numpy as np

from tests.drills import damage, disks, material
from tests.drills.moments import After, Appears
from tests.drills.stage import Stage
from tests.drills.targets import EMBED, TARGETS
from tests.drills.verdicts import BAD, EQUAL, REFUSED, Verdict, judged, not_whole, odd, refusal

Moment = After | Appears

LEGAL = {
    "SIGTERM": {0, 143, -15},
    "SIGHUP": {0, 143, -1},
    "SIGINT": {0, 130, -2},
    "SIGKILL": {-9, 0},
}
"""The statuses that a command may end with after a signal; below 0: nobody listened."""


def again(stage: Stage, name: str, folder, *named: str) -> Verdict:
    """The same command once more, and its verdict."""
    target = TARGETS[name]
    ended = stage.launcher.run(target.command(stage.base, folder))
    return judged(ended, target, folder, stage.expected[name], *named)


def must_be_equal(verdict: Verdict) -> Verdict:
    """Where a fault has damaged nothing, a refusal is bad."""
    return Verdict(BAD, f"refused: {verdict.seen}") if verdict.result == REFUSED else verdict


@dataclass(frozen=True)
class Struck:
    """A command is sent signals at some moment; the same command must then end as if nothing was."""

    kind = "signals"
    name: str
    signal: str
    moment: Moment
    times: int = 1

    def __str__(self) -> str:
        return f"{self.signal} x{self.times} {self.name} {self.moment}"

    def play(self, stage: Stage, rng: np.random.Generator) -> Verdict:
        """Run, strike, run again."""
        target = TARGETS[self.name]
        with stage.parent() as parent:
            folder, since = parent / self.name, time.monotonic()
            process = stage.launcher.start(target.command(stage.base, folder))
            self.moment.wait(process, parent, stage.seconds[self.name])
            for _ in range(self.times):
                process.send_signal(getattr(signal, self.signal))
                process.poll(0.02)
            ended = stage.launcher.end(process, since)
            if problem := odd(ended) or not_whole(target, folder):
                return Verdict(BAD, f"after the signal: {problem}")
            if ended.status not in LEGAL[self.signal]:
                return Verdict(BAD, f"status {ended.status} after the signal: {ended.err[-300:]}")
            return must_be_equal(again(stage, self.name, folder))


@dataclass(frozen=True)
class Full:
    """The disk is full: it is small from the start, or something else fills it at some moment."""

    kind = "full disk"
    name: str
    size: int = 0  # KiB; 0: ample, and filled at the moment
    moment: Moment | None = None

    def __str__(self) -> str:
        return f"full {self.name} {self.moment or f'{self.size}k'}"

    def play(self, stage: Stage, rng: np.random.Generator) -> Verdict:
        """Run until it is full, free space, run again."""
        target = TARGETS[self.name]
        with (
            stage.parent() as parent,
            disks.disk(parent, f"{self.size}k" if self.size else disks.AMPLE) as there,
        ):
            assert there, "no file system can be mounted"
            folder, since = parent / self.name, time.monotonic()
            process = stage.launcher.start(target.command(stage.base, folder))
            if self.moment:
                self.moment.wait(process, parent, stage.seconds[self.name])
                filler = disks.fill(parent)
            ended = stage.launcher.end(process, since)
            problem = odd(ended) or not_whole(target, folder)
            if not problem and ended.status:
                problem = refusal(ended, "no space left")
            if problem:
                return Verdict(BAD, f"while full: {problem}")
            if self.moment:
                filler.unlink()
            disks.mount(parent, f"size={disks.AMPLE}")
            return must_be_equal(again(stage, self.name, folder))


@dataclass(frozen=True)
class ReadOnly:
    """The disk may only be read: refused, or told of what is finished; nothing is changed."""

    kind = "read-only disk"
    name: str
    state: str

    def __str__(self) -> str:
        return f"read-only {self.name} {self.state}"

    def play(self, stage: Stage, rng: np.random.Generator) -> Verdict:
        """Run on a disk that may only be read, then on the same that may be written."""
        target = TARGETS[self.name]
        with stage.parent() as parent, disks.disk(parent, disks.AMPLE) as there:
            assert there, "no file system can be mounted"
            folder = parent / self.name
            if self.state != "fresh":
                stage.copy(self.name, self.state, parent)
            disks.mount(parent, "ro")
            ended = stage.launcher.run(target.command(stage.base, folder))
            first = judged(ended, target, folder, stage.expected[self.name], str(parent))
            if first.result == BAD:
                return first
            disks.mount(parent, "rw")
            after = must_be_equal(again(stage, self.name, folder))
            return after if after.result == BAD else first


@dataclass(frozen=True)
class Damaged:
    """A file is damaged; the same command then ends equal or refuses by name."""

    kind = "damaged file"
    name: str
    state: str
    file: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.state} {self.name}/{self.file}"

    def play(self, stage: Stage, rng: np.random.Generator) -> Verdict:
        """Damage, run, and embed with what there is then."""
        with stage.parent() as parent:
            folder = stage.copy(self.name, self.state, parent)
            damage.DAMAGES[self.how](folder / self.file, rng)
            verdict = self._run(stage, folder)
            if self.name != "run" or verdict.result != EQUAL:
                return verdict
            out = parent / "embed"
            ended = stage.launcher.run(material.embed(folder, out))
            of_embed = judged(ended, EMBED, out, stage.expected["embed"], *self._named(folder))
            return of_embed._replace(seen=f"embed: {of_embed.seen}") if of_embed.seen else verdict

    def _named(self, folder) -> tuple[str, ...]:
        """What a refusal may name: the file, a folder of it below the workdir, or the run's folder."""
        return self.file.rsplit("/", 1)[-1], str(folder)

    def _run(self, stage: Stage, folder) -> Verdict:
        target = TARGETS[self.name]
        ended = stage.launcher.run(target.command(stage.base, folder))
        expected = stage.expected[self.name]
        rows = folder / "metrics.jsonl"
        if (self.state, rows.name) == ("finished", self.file) and not ended.status:
            # A finished run is told by results.json; its other files are for others to read.
            shutil.rmtree(rows) if rows.is_dir() else rows.unlink(missing_ok=True)
            shutil.copy(stage.base / "run" / rows.name, rows)
        return judged(ended, target, folder, expected, *self._named(folder))


@dataclass(frozen=True)
class Read:
    """A prepared folder or a finished run is damaged and then read by another command."""

    kind = "damaged input"
    name: str
    file: str
    how: str

    def __str__(self) -> str:
        return f"{self.how} {self.name}/{self.file}, then read"

    def play(self, stage: Stage, rng: np.random.Generator) -> Verdict:
        """Damage, and train on the records or embed by the run."""
        with stage.parent() as parent:
            folder = stage.copy(self.name, "finished", parent)
            damage.DAMAGES[self.how](folder / self.file, rng)
            reader = "run" if self.name == "prepare" else "embed"
            out = parent / reader
            command = material.train(folder, out) if reader == "run" else material.embed(folder, out)
            ended = stage.launcher.run(command)
            names = self.file.rsplit("/", 1)[-1], str(folder)
            expected = stage.expected["records" if reader == "run" else "embed"]
            return judged(ended, TARGETS[reader], out, expected, *names)


Trial = Struck | Full | ReadOnly | Damaged | Read
