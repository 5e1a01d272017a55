"""PyTorch checkpoints, zip and legacy (before 1.6): a pickle that describes tensors, and their storages."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from pddm_jax.networks.pretrained.tensor_layout import Reader, Storage, printable
from pddm_jax.networks.pretrained.tensor_pickle import MAX_BYTES, PickleReader

# The first two pickles of a legacy checkpoint (torch/serialization.py).
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
NEITHER = "it is neither a PyTorch checkpoint nor a safetensors file"

MAX_DIRECTORY = 4 * 2**20
"""Bytes of the directory of a zip file: some 40,000 storages."""
MAX_RATIO, FREE = 16, 16 * 2**20
"""Inflated storages may have `FREE` + `MAX_RATIO` x compressed bytes; weights hardly compress."""
CHUNK = 2**20

END, END64, LOCATOR64, LOCAL = 22, 56, 20, 30
"""Bytes of a zip file's last records, and of an entry's header (PKWARE's APPNOTE, 4.3.7, 4.3.14 to 16)."""
ENCRYPTED = 0x1


@dataclass(frozen=True)
class AtPositions:
    """Storages at positions of a file."""

    file: IO[bytes]
    positions: Mapping[str, int]

    def read(self, storage: Storage, start: int, stop: int) -> bytes:
        """As `Reader.read`."""
        size = storage.dtype.itemsize
        self.file.seek(self.positions[storage.key] + start * size)
        found = self.file.read((stop - start) * size)
        if len(found) != (stop - start) * size:
            raise ValueError(f"storage {printable(storage.key)} is truncated")
        return found


@dataclass(frozen=True)
class InZip:
    """Storages as entries of a zip file, each read to its end, where its checksum is verified."""

    archive: zipfile.ZipFile
    entries: Mapping[str, zipfile.ZipInfo]

    def read(self, storage: Storage, start: int, stop: int) -> bytearray:
        """As `Reader.read`."""
        first, last = start * storage.dtype.itemsize, stop * storage.dtype.itemsize
        found, position = bytearray(), 0
        try:
            with self.archive.open(self.entries[storage.key]) as stream:
                while chunk := stream.read(CHUNK):
                    found += chunk[max(first - position, 0) : max(last - position, 0)]
                    position += len(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"storage {printable(storage.key)} is damaged: {error}") from error
        if position != storage.nbytes:
            raise ValueError(f"storage {printable(storage.key)} has {position} bytes, not {storage.nbytes}")
        return found


def _check_directory(file: IO[bytes]) -> None:
    """Raise a ValueError unless the directory is at the end of the file and of bounded size.

    `zipfile` would read it whole, and accept bytes before and after it.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - END - LOCATOR64 - END64, 0))
    tail = file.read().rjust(END + LOCATOR64 + END64, b"\0")
    end = tail[-END:]
    if not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
        raise ValueError("it is a zip file that is truncated or goes on after its directory")
    length, start = struct.unpack("<II", end[12:20])
    stop = size - END
    if tail[-END - LOCATOR64 :].startswith(b"PK\6\7"):
        length, start = struct.unpack("<QQ", tail[40:56])
        stop = size - END - LOCATOR64 - END64 if tail.startswith(b"PK\6\6") else -1
    if start + length != stop or length > MAX_DIRECTORY:
        raise ValueError(
            f"it is a damaged zip file: its directory has {length} bytes from {start} on, of {size}; "
            f"it must end the file and have {MAX_DIRECTORY} at most"
        )


def _entries(file: IO[bytes]) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip file and its entries by name, without overlaps, encryption or unknown compression."""
    _check_directory(file)
    archive = zipfile.ZipFile(file)
    entries: dict[str, zipfile.ZipInfo] = {}
    position = 0
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        name = printable(entry.filename)
        if entry.filename in entries:
            raise ValueError(f"it is a zip file with two entries {name}")
        if entry.flag_bits & ENCRYPTED:
            raise ValueError(f"its entry {name} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"its entry {name} is compressed by method {entry.compress_type}, not deflated"
            )
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise ValueError(f"its entry {name} is stored, but has two sizes")
        if entry.header_offset < position:
            raise ValueError(f"its entry {name} overlaps another")
        position = entry.header_offset + LOCAL + len(entry.orig_filename) + entry.compress_size
        entries[entry.filename] = entry
    if position > archive.start_dir:
        raise ValueError("its last entry overlaps the directory")
    return archive, entries


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """Read an entry whole. Without a length, `zipfile` would inflate beyond the size in the directory."""
    if entry.file_size > limit:
        raise ValueError(f"its {printable(entry.filename)} has {entry.file_size} bytes, more than {limit}")
    with archive.open(entry) as stream:
        found = stream.read(entry.file_size + 1)
    if len(found) != entry.file_size:
        raise ValueError(f"its {printable(entry.filename)} does not have the size in the directory")
    return found


def open_zip(file: IO[bytes]) -> tuple[Reader, Any]:
    """The storages of a zip checkpoint, and the content of its pickle.

    Raises:
        ValueError: it is damaged, or not a checkpoint. Sizes are compared before anything is inflated.
    """
    archive, entries = _entries(file)
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it is a zip file with {len(pickles)} entries data.pkl, not one")
    root = pickles[0].removesuffix("data.pkl")
    if entries[pickles[0]].CRC == 0:  # torch.serialization.set_crc32_options(False)
        for entry in entries.values():
            entry.CRC = None  # type: ignore[assignment]
    order = entries.get(f"{root}byteorder")
    if order and _read_entry(archive, order, 16) != b"little":
        raise ValueError("it is not little-endian")
    stream = io.BytesIO(_read_entry(archive, entries[pickles[0]], MAX_BYTES))
    pickled = PickleReader(stream)
    tree = pickled.load()
    if stream.read(1):
        raise ValueError("its data.pkl goes on after its end")
    stored = {key: entries.get(f"{root}data/{key}") for key in pickled.storages}
    return InZip(archive, _checked(stored, pickled.storages)), tree


def _checked(
    stored: Mapping[str, zipfile.ZipInfo | None], storages: Mapping[str, Storage]
) -> dict[str, zipfile.ZipInfo]:
    """The entries of storages: each has the length in the pickle, and a bounded compression ratio."""
    total = packed = 0
    for key, entry in stored.items():
        size = storages[key].nbytes
        if entry is None:
            raise ValueError(f"storage {printable(key)} of {size} bytes is missing")
        if entry.file_size != size:
            raise ValueError(f"storage {printable(key)} has {entry.file_size} bytes, not {size}")
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            total, packed = total + entry.file_size, packed + entry.compress_size
    if total > FREE + MAX_RATIO * packed:
        raise ValueError(f"its storages would grow from {packed} bytes to {total} when inflated")
    return {key: entry for key, entry in stored.items() if entry}


def open_legacy(file: IO[bytes]) -> tuple[Reader, Any]:
    """The storages of a legacy checkpoint, and the content of its pickle.

    Raises:
        ValueError: it is damaged, or not a checkpoint.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    pickled = PickleReader(file)
    try:
        magic = pickled.load()
    except ValueError as error:
        raise ValueError(f"{NEITHER} ({error})") from error
    if magic != MAGIC or pickled.load() != PROTOCOL:
        raise ValueError(NEITHER)
    system = pickled.load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("it is not little-endian")
    tree = pickled.load()
    storages = pickled.storages
    keys = pickled.load()
    if type(keys) is not list or any(type(key) is not str for key in keys) or {*keys} != {*storages}:
        raise ValueError("its list of storages differs from those of its tensors")
    positions, position = {}, file.tell()
    for key in keys:
        file.seek(position)
        if file.read(8) != struct.pack("<q", storages[key].length):
            raise ValueError(
                f"storage {printable(key)} is truncated, or its length is not that in the pickle"
            )
        positions[key] = position + 8
        position += 8 + storages[key].nbytes
    if position != size or len(positions) != len(keys):
        raise ValueError(f"its storages should end it at {position} bytes, but it has {size}")
    return AtPositions(file, positions), tree
