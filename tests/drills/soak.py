"""A soak: a training of minutes with many evaluations and checkpoints, watched from outside.

    python -m tests.drills.soak --minutes=30 [--workers=1] --report=FILE.md

Every second the memory of the command, and the open file descriptors, threads, temporary files and shared
memory of it and of its worker processes are sampled, and the compilations counted that JAX logs. After the
warm-up, a fifth of the time, there must be no further compilation, no more descriptors, threads or files,
and a memory slope that is not above a limit at 95 % confidence. The training is ended by SIGTERM, and must
then leave nothing.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import theilslopes

from tests.drills import material
from tests.drills.processes import Held, files_below, held

ROOT = Path(__file__).parents[2]
WARM_UP = 0.2
LIMIT = 4096.0
"""Bytes of memory an evaluation (with its rows, checkpoint and steps) that are no leak: rows are kept."""
BLOCKS = 60
FIELDS = {
    "train__steps": 10_000_000,
    "train__eval_every": 10,
    "train__checkpoint_every": 20,
    "train__log_every": 10,
    "data__val_class_fraction": 0.0,
}


class Sample(NamedTuple):
    """What was held at some second; `evaluations` and `compilations` are counts since the start."""

    seconds: float
    held: Held
    temporary: int
    shared: int
    evaluations: int
    compilations: int


class Soak(NamedTuple):
    """All samples, what was compiled, and how the command ended."""

    samples: list[Sample]
    compiled: list[str]
    status: int
    last: str
    left: list[str]


def compiled(log: Path) -> list[str]:
    """The programs that JAX compiled, by name and shapes, in order."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.split("Compiling ", 1)[1] for line in lines if "Compiling " in line]


def soak(folder: Path, seconds: float, workers: int = 0) -> Soak:
    """Train for some seconds in `folder`, which takes data, workdir and temporary files."""
    temporary, log, rows = folder / "tmp", folder / "err", folder / "run" / "metrics.jsonl"
    temporary.mkdir()
    images, fields = material.draw(folder / "images", 16, 8), FIELDS | {"data__workers": workers}
    command = material.train(images, folder / "run", **fields)
    environment = os.environ | {
        "JAX_LOG_COMPILES": "1",
        "JAX_PLATFORMS": "cpu",
        "TMPDIR": str(temporary),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # else the command starts itself anew with it
    }
    shm = Path("/dev/shm")
    before = {*shm.iterdir()}
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=err, stderr=err
        )
        samples, start = [], time.monotonic()
        # The seconds count from the first row: until then all is started and compiled.
        while process.poll() is None:
            count = rows.read_bytes().count(b"recall_at_1") if rows.exists() else 0
            now = time.monotonic()
            if not count:
                start = now
            ours = len({*shm.iterdir()} - before)
            found = held(process.pid), files_below(temporary), ours, count, len(compiled(log))
            samples.append(Sample(now - start, *found))
            if now - start >= seconds:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(1)
        status = process.wait(timeout=300)
    left = sorted(map(str, {*shm.iterdir()} - before)) + sorted(map(str, temporary.rglob("*")))
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1]
    return Soak(samples, compiled(log), status, last, left)


def slope(samples: list[Sample]) -> tuple[float, float, float]:
    """Bytes an evaluation by Theil and Sen, with the 95 % confidence interval.

    Samples of neighbouring seconds are not independent: medians of up to 60 blocks are.
    """
    blocks = np.array_split(np.arange(len(samples)), min(BLOCKS, len(samples)))
    rss = np.array([sample.held.rss for sample in samples])
    count = np.array([sample.evaluations for sample in samples])
    y, x = ([np.median(values[block]) for block in blocks] for values in (rss, count))
    found = theilslopes(y, x, 0.95)
    return float(found[0]), float(found[2]), float(found[3])


def judged(found: Soak, seconds: float) -> dict[str, tuple[str, bool]]:
    """For each thing that is watched, what was seen, and whether it is as it should be."""
    warm = [x for x in found.samples if x.seconds >= WARM_UP * seconds and x.held.processes]
    first, last, third = warm[0], warm[-1], max(len(warm) // 3, 1)
    middle, low, high = slope(warm)
    evaluations = max(last.evaluations - first.evaluations, 1)

    def steady(name: str, of, slack: int) -> tuple[str, tuple[str, bool]]:
        values = [of(sample) for sample in warm]
        early, late = (int(np.median(part)) for part in (values[:third], values[-third:]))
        text = f"{early} in the first third, {late} in the last, {max(values)} at most"
        return name, (text, late <= 1.2 * early + slack)

    twice = [name for name, n in Counter(found.compiled).items() if n > 1]
    after = last.compilations - first.compilations
    return {
        "memory": (
            f"{first.held.rss / 1e6:.1f} MB after the warm-up, {last.held.rss / 1e6:.1f} MB at the end; "
            f"{middle:.0f} bytes an evaluation (95 %: {low:.0f} to {high:.0f}), "
            f"{middle * evaluations / max(last.seconds - first.seconds, 1) * 3600 / 1e6:.2f} MB an hour; "
            f"limit {LIMIT:.0f}",
            low <= LIMIT,
        ),
        **dict(
            [
                steady("open file descriptors", lambda sample: sample.held.descriptors, 1),
                steady("threads", lambda sample: sample.held.threads, 1),
                steady("processes", lambda sample: sample.held.processes, 0),
                steady("temporary files", lambda sample: sample.temporary, 0),
                steady("files in /dev/shm", lambda sample: sample.shared, 0),
            ]
        ),
        "compilations": (
            f"{len(found.compiled)} in all, {len(twice)} of them again, {after} after the warm-up",
            not twice and not after,
        ),
        "end by SIGTERM": (
            f"status {found.status}, {found.last!r}; left behind: {', '.join(found.left) or 'nothing'}",
            found.status == 0 and found.last.startswith("ended by SIGTERM") and not found.left,
        ),
    }


def report(found: Soak, seconds: float) -> str:
    """The report, as Markdown."""
    verdicts, last = judged(found, seconds), found.samples[-1]
    rows = [f"| {name} | {'ok' if ok else '**BAD**'} | {text} |" for name, (text, ok) in verdicts.items()]
    good = all(ok for _, ok in verdicts.values())
    every = found.samples[:: max(len(found.samples) // 12, 1)]
    table = [
        f"| {x.seconds:.0f} | {x.evaluations} | {x.held.rss / 1e6:.1f} | {x.held.descriptors} | "
        f"{x.held.threads} | {x.temporary} | {x.shared} | {x.compilations} |"
        for x in every
    ]
    return "\n".join(
        [
            "# Soak",
            "",
            f"{last.seconds / 60:.1f} minutes, {last.evaluations} evaluations, {os.cpu_count()} cores "
            f"({platform.machine()}), Python {platform.python_version()}: "
            f"{'all' if good else 'NOT'} as it should be.",
            "",
            "| what | verdict | seen after the warm-up |",
            "| --- | --- | --- |",
            *rows,
            "",
            "| seconds | evaluations | MB | descriptors | threads | temporary | /dev/shm | compilations |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *table,
            "",
        ]
    )


def main() -> None:
    """Soak, print the report, and exit with 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=0, help="data.workers of the run")
    parser.add_argument("--report", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = soak(Path(folder), 60 * given.minutes, given.workers)
    text = report(found, 60 * given.minutes)
    print(text)
    if given.report:
        given.report.write_text(text, encoding="utf-8")
    sys.exit(not all(good for _, good in judged(found, 60 * given.minutes).values()))


if __name__ == "__main__":
    main()
