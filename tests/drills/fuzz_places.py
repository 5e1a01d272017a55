"""Room for files of the fuzzer, small images, and values that stand in JSON."""

import io
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

ROOM = tempfile.TemporaryDirectory(prefix="fuzz-")


def fresh():
    """An empty folder."""
    root = Path(ROOM.name) / "a root"
    for path in root.rglob("*") if root.exists() else ():
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    return root


@cache
def png(seed):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


VALUES = (
    None,
    True,
    -1,
    0,
    1,
    2.5,
    2**31,
    2**63,
    1e999,
    "",
    "x",
    "../x",
    [],
    [1],
    [[1]],
    {},
    {"0": 1},
    [None],
    ["a"] * 6,
    [0] * 6,
    [9] * 6,
)
