"""Small and read-only file systems, where they can be mounted."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AMPLE = "200m"


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory, or mount it again with other options; whether that was possible."""
    again = "remount," if os.path.ismount(folder) else ""
    command = ["mount", "-t", "tmpfs", "-o", f"{again}{options}", "none", str(folder)]
    return shutil.which("mount") is not None and not subprocess.run(command, capture_output=True).returncode


def can_mount(folder: Path) -> bool:
    """Whether file systems can be mounted in a folder."""
    with disk(folder, AMPLE) as there:
        return there


@contextmanager
def disk(folder: Path, size: str) -> Iterator[bool]:
    """`with disk(folder, "1m") as there:` a file system of this size in a folder, where it can be."""
    there = mount(folder, f"size={size}")
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all of the space that is left, by a file beside."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler
