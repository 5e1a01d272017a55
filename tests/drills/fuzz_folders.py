"""Folder trees and class names: links, FIFOs, empty files, names of every kind."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

from hypothesis import strategies as st

from pddm_jax import data
from pddm_jax.data import listing
from pddm_jax.data.layouts.base import find_records
from pddm_jax.data.layouts.folder import PARTS
from pddm_jax.data.load import find
from pddm_jax.data.prepare.command import prepare
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.drills.fuzz_places import ROOM, fresh, png

ODD_NAMES = (
    *(
        "a",
        "b",
        "train",
        "test",
        "val",
        "Training",
        "query",
        ".hidden",
        " lead",
        "trail ",
        "a\nb",
        "a\tb",
        "%s",
        "{}",
        "{0}",
    ),
    *(
        "é",
        "e\u0301",
        "\u202eRTL",
        "שלום",
        "日本",
        "😀",
        "\udcff",
        "a\x1bb",
        "x" * 255,
        "..a",
        "-rf",
        "~",
        "$HOME",
        "None",
    ),
    *(
        "a.png",
        "nul\x01",
        "\x7f",
        "\u2028",
        "\\",
        "\\n",
        "0",
        "1e5",
        "con",
        "a,b",
        '"q"',
        "'",
        "#",
        "*",
        "[a]",
    ),
)
_name = st.one_of(
    st.sampled_from(ODD_NAMES),
    st.sampled_from(ODD_NAMES[:5]),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30
    ).filter(lambda x: x not in (".", "..") and len(x.encode()) < 250),
)
KINDS = (
    "png",
    "png",
    "png",
    "png",
    "PNG",
    "jpg",
    "text",
    "heic",
    "empty",
    "noise",
    "fifo",
    "dangling",
    "loop",
    "zero",
    "up",
    "folder",
    "socket",
)
_entry = st.tuples(
    _name, st.one_of(st.just(""), st.just(""), _name), st.sampled_from(KINDS), st.integers(0, 5)
)


EXTENSIONS = {"PNG": "PNG", "text": "txt", "heic": "HEIC", "jpg": "jpg"}


def plant(root, entries):
    """Make a tree; returns what it holds of plain images as (class, path)."""
    plain = []
    for number, (top, deeper, kind, count) in enumerate(entries):
        folder = root / top / deeper if deeper else root / top
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        for n in range(max(count, 1)):
            path = folder / f"{number}-{n}.{EXTENSIONS.get(kind, 'png')}"
            if kind in ("png", "PNG", "jpg", "heic", "text"):
                path.write_bytes(png(number * 10 + n))
                if kind not in ("heic", "text"):
                    plain.append((top, path))
            elif kind == "empty":
                path.touch()
            elif kind == "noise":
                path.write_bytes(bytes(range(100)))
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "folder":
                path.mkdir()
            elif kind == "socket":
                with socket.socket(socket.AF_UNIX) as made, contextlib.suppress(OSError):
                    made.bind(str(path))
            else:
                path.symlink_to(
                    {"dangling": "nowhere", "loop": path.name, "zero": "/dev/zero", "up": ".."}[kind]
                )
    return plain


def check_folder(case):
    entries, skip, prepared = case
    root = fresh()
    plain = plant(root, entries)
    words = str(root), "data."
    if prepared:
        out = Path(ROOM.name) / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

        def make():
            source = find("folder", root)
            prepare("folder", source, root, out, 2, skip)
            return source, find_records(out, "folder")

        outcome = attempt(make, (*words, "the name", "class"))
        if outcome.error is None:
            source, records = outcome.value
            if source.class_names != records.class_names or (source.labels != records.labels).any():
                raise Wrong(f"records have {records.class_names} for {source.class_names}")
        return settled(outcome)
    outcome = attempt(
        lambda: data.load("folder", str(root), None, 0, on_error="skip" if skip else "stop"), words
    )
    tops = {top for top, _ in plain if not top.startswith(".")}
    simple = all(kind in ("png", "PNG", "jpg") for _, _, kind, _ in entries)
    no_parts = not any(p.fullmatch(t.lower()) for p in PARTS.values() for t in tops)
    hidden = any(part.startswith(".") for _, path in plain for part in path.relative_to(root).parts)
    if simple and no_parts and len(tops) > 1 and not hidden:
        if outcome.error is not None:
            raise Wrong(f"refuses a good folder: {outcome.error}")
        split = outcome.value
        names = {*split.train.class_names.values(), *split.test.class_names.values()}
        total = len(split.train.labels) + len(split.test.labels)
        if names != tops or total != len(plain):
            raise Wrong(f"{names} and {total} images for {tops} and {len(plain)}")
    if outcome.error is None:
        told = Path(ROOM.name) / "names.txt"
        listed = listing.listing({"train": outcome.value.train, "test": outcome.value.test}, str(root))
        back = attempt(
            lambda: (listing.write_names(told, listed.names), listing.read_names(told))[1], words
        )
        if back.error is not None or back.value != listed.names:
            raise Wrong(f"names {back.value} for {listed.names}: {back.error}")
    return settled(outcome)


FOLDERS = Target(
    "folders",
    st.tuples(
        st.lists(_entry, max_size=6).map(tuple), st.booleans(), st.sampled_from((False, False, True))
    ),
    check_folder,
    3,
)

TARGETS = (FOLDERS,)
