"""Tars, and indices and shards of prepared records, whole and damaged."""

import io
import json
import shutil
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from pddm_jax import data
from pddm_jax.data.load import find
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.storage.tars import Place, members
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.drills.fuzz_mutate import DAMAGE, damaged
from tests.drills.fuzz_places import ROOM, VALUES, fresh, png


@cache
def tarred(form):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for n, name in enumerate(("a.JPEG", "é" * 60 + ".JPEG", "d/" * 60 + "b.JPEG")):
            info = tarfile.TarInfo(name)
            info.size = len(png(n))
            tar.addfile(info, io.BytesIO(png(n)))
    return out.getvalue()


def check_tar(case):
    form, operations, checksum, nested = case
    whole = tarred(form)
    content = bytearray(damaged(whole, operations, 512))
    if checksum and len(content) >= 512:
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
    root = fresh()
    path = root / "n01440764.tar"
    path.write_bytes(content)
    if nested:
        (root / "n01440765.tar").write_bytes(tarred(tarfile.PAX_FORMAT))
        ids = Path(ROOM.name) / "ids.txt"
        ids.write_text("n01440764\nn01440765\n", encoding="utf-8")

        def read():
            source = find("imagenet", root, str(ids))
            return [source.images.read(n) for n in range(len(source.labels))]
    else:

        def read():
            return [(m.name, m.size) for m in members(Place(path))]

    outcome = attempt(read, (str(path), str(root)))
    if bytes(content) == whole and (
        outcome.error is not None or len(outcome.value) != (6 if nested else 3)
    ):
        raise Wrong(f"{outcome} of a good tar")
    return settled(outcome)


TARS = Target(
    "tars",
    st.tuples(
        st.sampled_from((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)), DAMAGE, st.booleans(), st.booleans()
    ),
    check_tar,
    2,
    memory=300 * 2**20,
)


@cache
def records():
    """A folder that `prepare` made of six images."""
    root, out = Path(ROOM.name) / "six", Path(ROOM.name) / "records"
    for n in range(6):
        (root / f"c{n // 2}").mkdir(parents=True, exist_ok=True)
        (root / f"c{n // 2}" / f"{n}.png").write_bytes(png(n))
    out.mkdir()
    prepare("folder", find("folder", root), root, out, 4, False)
    return out


def check_records(case):
    edit, operations, shard = case
    root = fresh()
    shutil.copytree(records(), root, dirs_exist_ok=True)
    (path,) = root.glob("*.json")
    if edit is not None:
        field, value = edit
        fields = json.loads(path.read_bytes())
        names = [*fields, "new"]
        fields[names[field % len(names)]] = VALUES[value]
        path.write_text(json.dumps(fields), encoding="utf-8")
    target = sorted(root.glob("*.array_record"))[0] if shard else path
    target.write_bytes(damaged(target.read_bytes(), operations))

    def read():
        split = data.load("folder", str(root), None, 0)
        return [
            np.asarray(part.images[n])
            for part in (split.train, split.test)
            for n in range(len(part.labels))
        ]

    outcome = attempt(read, (str(root), "data."))
    if edit is None and not operations and (outcome.error is not None or len(outcome.value) != 6):
        raise Wrong(f"{outcome} of good records")
    return settled(outcome)


RECORDS = Target(
    "records",
    st.tuples(
        st.one_of(st.none(), st.tuples(st.integers(0, 11), st.integers(0, len(VALUES) - 1))),
        DAMAGE,
        st.booleans(),
    ),
    check_records,
    2,
)

TARGETS = TARS, RECORDS
