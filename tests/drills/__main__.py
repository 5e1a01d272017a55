"""The fault drill: commands are disturbed in every way, and must end as if they had not been, or say why.

    python -m tests.drills --report=FILE.md [--seed=0] [--kills=50] [--minutes=90] [--only=TEXT]

Exits with 1 where a trial is bad. `--only` plays the trials whose name contains a text. Full and read-only
disks are tried where file systems can be mounted, as by root.
"""

import argparse
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from tests.drills import material
from tests.drills.launcher import launcher
from tests.drills.plan import plan
from tests.drills.report import report
from tests.drills.stage import Stage, set_up
from tests.drills.targets import RUN
from tests.drills.trials import Trial
from tests.drills.verdicts import BAD, Verdict


def play(trial: Trial, stage: Stage, seed: int) -> Verdict:
    """Play a trial, with random numbers of its own; what it raises is bad."""
    rng = np.random.default_rng([seed, zlib.crc32(str(trial).encode())])
    try:
        return trial.play(stage, rng)
    except Exception as error:
        return Verdict(BAD, f"the drill itself: {type(error).__name__}: {error}")


def of_records(stage: Stage) -> object:
    """What a run on the prepared records leaves."""
    with stage.parent() as parent:
        ended = stage.launcher.run(material.train(stage.base / "prepare", parent / "run"))
        assert ended.status == 0, ended.err
        return RUN.left(parent / "run")


def main() -> None:
    """Play all trials for which there is time, and write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=50, help="random moments of SIGKILL")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    start = time.monotonic()
    played: list[tuple[Trial, Verdict]] = []
    with tempfile.TemporaryDirectory(prefix="drill-") as folder, launcher(Path(folder)) as started:
        stage = set_up(started, Path(folder))
        stage.expected["records"] = of_records(stage)
        for trial in plan(stage, given.seed, given.kills):
            if given.only not in str(trial):
                continue
            minutes = (time.monotonic() - start) / 60
            if minutes > given.minutes:
                break
            played.append((trial, play(trial, stage, given.seed)))
            print(f"{minutes:.1f} {played[-1][1].result} {trial}: {played[-1][1].seen}", flush=True)
            if given.report:
                told = report(played, given.seed, given.kills, minutes)
                given.report.write_text(told, encoding="utf-8")
    print(report(played, given.seed, given.kills, (time.monotonic() - start) / 60))
    sys.exit(any(verdict.result == BAD for _, verdict in played))


if __name__ == "__main__":
    main()
