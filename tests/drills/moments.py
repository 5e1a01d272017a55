"""Moments of a running command: after a share of its usual time, or when a file appears."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.drills.launcher import HUNG


@dataclass(frozen=True)
class After:
    """A share of the seconds that an undisturbed command takes."""

    share: float

    def __str__(self) -> str:
        return f"{self.share:.3f}"

    def wait(self, process, parent: Path, seconds: float) -> None:
        """Until it has come, or the command has ended."""
        process.poll(self.share * seconds)


@dataclass(frozen=True)
class Appears:
    """When a path of this pattern is there, and some seconds more."""

    pattern: str
    more: float = 0.0

    def __str__(self) -> str:
        return f"{self.pattern}+{self.more:.3f}"

    def wait(self, process, parent: Path, seconds: float) -> None:
        """Until it has come, or the command has ended."""
        deadline = time.monotonic() + HUNG
        while not any(parent.glob(self.pattern)) and time.monotonic() < deadline:
            if process.poll(0.001) is not None:
                return
        process.poll(self.more)
