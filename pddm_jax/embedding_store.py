"""Embeddings on disk: NumPy memory maps with labels, names and digests, written resumably.

A finished folder OUT holds `FILES` and about.json, which has their SHA-256. Until then the rows are in
.OUT.part, where done.json has the number of rows that all processes have written, and their CRC-32. A
killed command resumes from that row.
"""

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, Int

from pddm_jax.config.old_names import with_new_names
from pddm_jax.data.listing import Listing, read_names, write_names
from pddm_jax.system.agreement import share_errors
from pddm_jax.system.files import explain_errors, read_sealed, sweep, sync_folder, write_json, write_sealed

FILES = ("embeddings.npy", "labels.npy", "parts.npy", "names.txt")
"""Files with a digest in about.json."""


class Stored(NamedTuple):
    """Stored embeddings and labels as memory maps, and the fields of about.json."""

    embeddings: Float32[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    about: dict[str, Any]


def read(folder: Path) -> Stored:
    """Read the embeddings in a folder and verify the digests in about.json: about 1 s for 1 GB.

    Folders of earlier versions have no digests: only the shapes and the number of names are checked.

    Raises:
        OSError: there is no such folder, or no about.json in it.
        ValueError: a file is missing or damaged; the message names it.
    """
    todo = f"delete {folder} and repeat the command"
    about = read_sealed(folder / "about.json", todo)
    rows, digests = _count_rows(folder / "about.json", about, todo), about.get("files", {})
    if digests and sorted(digests) != sorted(FILES):
        raise ValueError(
            f"{folder / 'about.json'} is damaged: it lists the files {sorted(digests)}; {todo}"
        )
    for name, expected in digests.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: {todo}")
        if file_digest(folder / name) != expected:
            raise ValueError(f"{folder / name} is damaged: its digest differs from about.json; {todo}")
    embeddings = _open_array(folder / "embeddings.npy", (rows, about["columns"]), todo)
    labels = _open_array(folder / "labels.npy", (rows,), todo)
    if "order" in about:  # earlier versions wrote neither parts nor names
        _open_array(folder / "parts.npy", (rows,), todo)
        try:
            count = len(read_names(folder / "names.txt"))
        except FileNotFoundError as error:
            raise ValueError(f"{folder / 'names.txt'} is missing: {todo}") from error
        if count != rows:
            raise ValueError(f"{folder / 'names.txt'} has {count} names for {rows} rows: {todo}")
    return Stored(embeddings, labels, about)


def _count_rows(path: Path, about: Mapping[str, Any], todo: str) -> int:
    """The number of rows of all parts, from the fields of about.json."""
    rows, columns = about.get("rows"), about.get("columns")
    if not isinstance(rows, dict):
        rows = {"": None}
    counts = [*rows.values(), columns]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"{path} is damaged: rows or columns missing or of a wrong type; {todo}")
    return sum(int(count) for count in rows.values())


def _open_array(path: Path, shape: tuple[int, ...], todo: str, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """The array in a .npy file as a memory map."""
    try:
        array = np.load(path, mmap_mode=mode)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {todo}") from error
    except (ValueError, EOFError, IsADirectoryError) as error:
        raise ValueError(f"{path} is damaged: {error}; {todo}") from error
    found = getattr(array, "shape", None)
    if found != shape:
        raise ValueError(f"{path} is damaged: expected an array of shape {shape}, found {found}; {todo}")
    return array


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_same(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise a ValueError unless a folder holds these embeddings.

    Package versions may differ, and fields of the config that change neither network nor data.
    """
    path = folder / "about.json"
    if not path.is_file():
        raise ValueError(f"{folder} is there already, and holds no embeddings")
    theirs, ours = read_sealed(path, f"delete {folder}"), json.loads(json.dumps(about))
    if isinstance(theirs.get("config"), dict):
        theirs["config"] = with_new_names(theirs["config"])
        for of in (theirs, ours):
            of["config"].pop("train", None)
    differing = [name for name in ours if name != "versions" and theirs.get(name) != ours[name]]
    if differing == ["order"]:
        raise ValueError(
            f"{folder} was written by an earlier version, whose rows are in another order: choose another "
            "--out, or delete it"
        )
    if differing:
        raise ValueError(
            f"{folder} holds embeddings of another run or data set ({', '.join(differing)} differ): "
            "choose another --out, or delete it"
        )


class Progress(NamedTuple):
    """The number of rows written so far, from the first one on, and their CRC-32 (in process 0)."""

    rows: int
    crc32: int


class UnfinishedStore:
    """The folder .OUT.part, opened to write the rows that are missing; every process opens it.

    Args:
        out: the folder OUT of the finished store.
        about: the fields of about.json; `rows` and `columns` give the shape.
        listed: the images, a row each.

    Attributes:
        embeddings: the memory map [n, d] that all processes write to.
        progress: what is known to be written.

    Raises:
        ValueError: the folder holds other embeddings, or is damaged.
        NotWritten: there is no space for all embeddings.
    """

    def __init__(self, out: Path, about: Mapping[str, Any], listed: Listing) -> None:
        self.out, self.about = out, about
        self.folder = out.with_name(f".{out.name}.part")
        shape = len(listed.labels), about["columns"]
        with share_errors():
            if jax.process_index() == 0:
                self._make(listed, shape)
        with share_errors():
            check_same(self.folder, about)
            self.progress = self._verified(shape)
        self.embeddings = _open_array(self.folder / "embeddings.npy", shape, self._todo, "r+")

    @property
    def _todo(self) -> str:
        return f"delete {self.folder}, and all images are embedded anew"

    def _make(self, listed: Listing, shape: tuple[int, int]) -> None:
        """Create the files, unless an earlier command did; about.json is written last."""
        folder, about = self.folder, self.folder / "about.json"
        is_new = not about.exists()
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            check_same(folder, self.about)
            sweep(folder)
        with explain_errors(folder, "nothing is written yet"):
            folder.mkdir(parents=True, exist_ok=True)
            np.save(folder / "labels.npy", listed.labels)
            np.save(folder / "parts.npy", listed.parts)
            write_names(folder / "names.txt", listed.names)
            if is_new:
                np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float32, shape).flush()
                _allocate(folder / "embeddings.npy")
        if is_new:
            write_json(folder / "done.json", Progress(0, 0)._asdict())
            write_sealed(about, self.about)

    def _verified(self, shape: tuple[int, int]) -> Progress:
        """The progress in done.json; process 0 compares the rows with their CRC-32."""
        path = self.folder / "done.json"
        embeddings = _open_array(self.folder / "embeddings.npy", shape, self._todo)
        try:
            fields = json.loads(path.read_bytes())
            # Earlier versions wrote the number of rows alone.
            rows, crc32 = (fields, None) if type(fields) is int else (fields["rows"], fields["crc32"])
        except (ValueError, RecursionError, KeyError, TypeError, FileNotFoundError, IsADirectoryError):
            rows, crc32 = -1, None
        if type(rows) is not int or not 0 <= rows <= len(embeddings):
            raise ValueError(f"{path} is damaged: {self._todo}")
        found = zlib.crc32(embeddings[:rows].data) if jax.process_index() == 0 else 0
        if jax.process_index() == 0 and crc32 not in (None, found):
            raise ValueError(
                f"{self.folder / 'embeddings.npy'} or done.json is damaged: the CRC-32 of the {rows} rows "
                f"differs; {self._todo}"
            )
        return Progress(rows, found)

    def save(self, rows: int) -> None:
        """Record that all rows before `rows` are written, once every process has written its own."""
        with share_errors():
            self.embeddings.flush()
        before, self.progress = self.progress, Progress(rows, 0)
        with share_errors():
            if jax.process_index() == 0:
                crc32 = zlib.crc32(self.embeddings[before.rows : rows].data, before.crc32)
                self.progress = Progress(rows, crc32)
                write_json(self.folder / "done.json", self.progress._asdict())

    def finish(self) -> Stored:
        """Rename the folder to OUT, and read it."""
        with share_errors():
            if jax.process_index() == 0:
                finish(self.folder, self.out, self.about)
        return read(self.out)


def finish(folder: Path, out: Path, about: Mapping[str, Any]) -> None:
    """Sync the files, write their digests and rename the folder; a kill at any moment loses no row."""
    for name in FILES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    digests = {name: file_digest(folder / name) for name in FILES}
    write_sealed(folder / "about.json", {**about, "files": digests})
    folder.rename(out)
    (out / "done.json").unlink()
    sync_folder(out)
    sync_folder(out.parent)


def _allocate(path: Path) -> None:
    """Reserve the disk space of a file: a full disk would kill a process that writes to its memory map."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot
                raise
