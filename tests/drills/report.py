"""The report of a drill, as Markdown."""

import os
import platform
from collections import Counter
from importlib.metadata import version

from tests.drills.trials import Trial
from tests.drills.verdicts import BAD, EQUAL, REFUSED, Verdict

PACKAGES = "jax", "flax", "orbax-checkpoint", "grain", "numpy"


def group(trial: Trial) -> str:
    """The row of the report that a trial belongs to."""
    what = getattr(trial, "signal", "") or getattr(trial, "how", "")
    state = getattr(trial, "state", "")
    return " ".join(part for part in (trial.kind, what, state, trial.name) if part)


def report(played: list[tuple[Trial, Verdict]], seed: int, kills: int, minutes: float) -> str:
    """How many were tried of each kind, and how they ended; how to repeat each bad one."""
    counts = Counter((group(trial), verdict.result) for trial, verdict in played)
    total = Counter(verdict.result for _, verdict in played)
    rows = [
        f"| {name} | {sum(counts[name, x] for x in (EQUAL, REFUSED, BAD))} | {counts[name, EQUAL]} | "
        f"{counts[name, REFUSED]} | {counts[name, BAD]} |"
        for name in sorted({group(trial) for trial, _ in played})
    ]
    repeat = f"python -m tests.drills --seed={seed} --kills={kills}"
    bad = [
        f"- `{repeat} --only='{trial}'`: {verdict.seen}"
        for trial, verdict in played
        if verdict.result == BAD
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            "# Fault drill",
            "",
            f"{len(played)} trials in {minutes:.0f} minutes, seed {seed}, {os.cpu_count()} cores "
            f"({platform.machine()}), Python {platform.python_version()}, {versions}: {total[EQUAL]} ended "
            f"equal to the undisturbed command, {total[REFUSED]} refused in one line, {total[BAD]} bad.",
            "",
            "| fault | tried | equal | refused by name | bad |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            f"| **all** | {len(played)} | {total[EQUAL]} | {total[REFUSED]} | {total[BAD]} |",
            "",
            *(["Bad, with the command that repeats each:", "", *bad] if bad else ["None was bad."]),
            "",
        ]
    )
