"""What /proc says of a command and of all processes that it started."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Held(NamedTuple):
    """What a command holds, its child processes included but in `rss`: those that read come and go."""

    rss: int  # bytes of the command itself, without shared memory, of which the files are counted
    descriptors: int
    threads: int
    processes: int


def tree(pid: int) -> list[int]:
    """A process and those that it started, at any depth; empty when it has ended."""
    found, waiting = [], [pid]
    while waiting:
        parent = waiting.pop()
        with suppress(OSError):
            for task in (PROC / str(parent) / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
            found.append(parent)
    return found


def held(pid: int) -> Held:
    """What the processes of a command hold now."""
    rss = descriptors = threads = processes = 0
    for one in tree(pid):
        with suppress(OSError):
            told = dict(
                line.split(":", 1) for line in (PROC / str(one) / "status").read_text().splitlines()
            )
            if one == pid:
                kinds = (told.get(name, "0 kB") for name in ("RssAnon", "RssFile"))
                rss = 1024 * sum(int(kind.split()[0]) for kind in kinds)
            threads += int(told["Threads"])
            descriptors += len([*(PROC / str(one) / "fd").iterdir()])
            processes += 1
    return Held(rss, descriptors, threads, processes)


def files_below(folder: Path) -> int:
    """How many files there are below a folder, whatever vanishes meanwhile."""
    return sum(len(names) for _, _, names in os.walk(folder))
