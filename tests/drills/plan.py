"""All trials of a drill, in an order that reaches every kind early."""

from collections.abc import Iterator
from itertools import chain, zip_longest

import numpy as np

from tests.drills import damage, disks
from tests.drills.moments import After, Appears
from tests.drills.stage import Stage
from tests.drills.targets import TARGETS
from tests.drills.trials import Damaged, Full, Read, ReadOnly, Struck, Trial

SIZES = {
    "run": (4, 8, 16, 32, 64, 100, 150, 200, 260, 320, 400, 480, 560, 640, 720, 800),
    "prepare": (4, 8, 16, 32, 64, 100),
    "glyphs": (4, 64, 512, 1024),
    "embed": (4, 8, 12, 16, 20),
}
"""Sizes in KiB of disks that are too small, from the first file to the last."""


def strikes(rng: np.random.Generator, kills: int) -> list[list[Trial]]:
    """Signals: SIGKILL at random moments and events of every target, the others at some."""
    found = []
    for name, target in TARGETS.items():
        share = kills // (2 if name == "run" else 4)
        moments = [After(share) for share in rng.uniform(0.02, 1, share)]
        moments += [Appears(event, more) for event in target.events for more in (0.0, rng.uniform(0, 0.05))]
        found.append([Struck(name, "SIGKILL", moment) for moment in moments])
        others = [("SIGTERM", 1), ("SIGHUP", 1), ("SIGINT", 1), ("SIGINT", 2)]
        of_others = [After(share) for share in rng.uniform(0.05, 1, 6)]
        of_others += [Appears(event, rng.uniform(0, 0.02)) for event in target.events]
        found.append([Struck(name, sent, moment, times) for moment in of_others for sent, times in others])
    return found


def full(rng: np.random.Generator) -> list[list[Trial]]:
    """Disks that are small, and disks that something fills at an event."""
    found = []
    for name, sizes in SIZES.items():
        of_events = [Full(name, moment=Appears(event)) for event in TARGETS[name].events]
        of_events += [Full(name, moment=After(share)) for share in rng.uniform(0.1, 1, 4)]
        found += [[Full(name, size) for size in sizes], of_events]
    return found


def damages(stage: Stage) -> list[list[Trial]]:
    """Damage to every file, of a stopped and of a finished folder."""
    found = []
    for name in ("run", "prepare", "embed"):
        for state in ("stopped", "finished"):
            for how in damage.DAMAGES:
                there = damage.files(stage.base / name)
                if state == "stopped":
                    gone = (
                        "results.json",
                        "convergence.png",
                        "gallery.png",
                        "report.html",
                        "pddm_records.json",
                    )
                    there = [file for file in there if file.removesuffix(".sha256") not in gone]
                if (name, state) != ("embed", "stopped"):
                    found.append([Damaged(name, state, file, how) for file in there])
    for name in ("run", "prepare"):
        there = damage.files(stage.base / name)
        found += [[Read(name, file, how) for file in there] for how in damage.DAMAGES]
    return found


def plan(stage: Stage, seed: int, kills: int) -> Iterator[Trial]:
    """All trials; those of each kind are shuffled, and kinds take turns."""
    rng = np.random.default_rng(seed)
    kinds = [*strikes(rng, kills)]
    mountable = stage.base.with_name("mounted")
    mountable.mkdir(exist_ok=True)
    if disks.can_mount(mountable):
        kinds += full(rng)
        states = "fresh", "stopped", "finished"
        written = "run", "prepare", "embed"
        kinds.append([ReadOnly(name, state) for name in written for state in states])
    kinds += damages(stage)
    for trials in kinds:
        rng.shuffle(trials)
    return (trial for trial in chain.from_iterable(zip_longest(*kinds)) if trial is not None)
