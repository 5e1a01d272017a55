"""What undisturbed commands leave, and the states from which disturbed ones begin."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.drills import material
from tests.drills.launcher import Launcher
from tests.drills.targets import EMBED, GLYPHS, PREPARE, RUN, Target
from tests.drills.verdicts import unequal


@dataclass
class Stage:
    """Where trials play.

    Attributes:
        launcher: starts commands.
        base: holds images/ and what undisturbed commands of each kind left: run/, prepare/, embed/, ...
        expected: by the name of the target, what an undisturbed one leaves.
        seconds: likewise, how long it takes.
    """

    launcher: Launcher
    base: Path
    expected: dict[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    used: int = 0

    @contextmanager
    def parent(self) -> Iterator[Path]:
        """An empty folder for a trial, removed when it ends."""
        self.used += 1
        folder = self.base.with_name(f"trial-{self.used}")
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def undisturbed(self, target: Target) -> None:
        """Run a command to see how long it takes and what it leaves."""
        folder = self.base / target.name
        ended = self.launcher.run(target.command(self.base, folder))
        assert ended.status == 0, ended.err
        target.whole(folder)
        self.expected[target.name], self.seconds[target.name] = target.left(folder), ended.seconds
        assert not unequal(target, folder, self.expected[target.name])

    def copy(self, name: str, state: str, parent: Path) -> Path:
        """A copy of an undisturbed folder: `finished`, or `stopped` before it was done."""
        folder = Path(shutil.copytree(self.base / name, parent / name))
        if state == "stopped":
            for last in (
                "results.json",
                "convergence.png",
                "gallery.png",
                "report.html",
                "pddm_records.json",
            ):
                (folder / last).unlink(missing_ok=True)
            for sum_of in ("results.json", "pddm_records.json"):
                (folder / f"{sum_of}.sha256").unlink(missing_ok=True)
        return folder


ALL = (RUN, GLYPHS, PREPARE, EMBED)


def set_up(launcher: Launcher, folder: Path, targets: tuple[Target, ...] = ALL) -> Stage:
    """A stage in an empty folder, after the undisturbed commands."""
    stage = Stage(launcher, folder / "base")
    material.draw(stage.base / "images")
    for target in targets:
        stage.undisturbed(target)
    return stage
