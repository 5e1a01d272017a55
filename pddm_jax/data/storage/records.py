"""ArrayRecord shards of encoded images, with an index: a folder for fast random access."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Int, Shaped

from pddm_jax.data.storage.decode import SkippedImage
from pddm_jax.system.console import visible
from pddm_jax.system.files import no_space, replacing, write_text
from pddm_jax.system.regular import check_regular, read_text

INDEX = "pddm_records.json"
OPEN = 256  # shards at a time, in each process: there may be thousands
LARGEST = 2**32  # bytes of an index: of tens of millions of images
VERSION = 2  # version 1, which is read too, does not list skipped images
_SEAL = ', "sha256": "'  # precedes the digest of the text before it, with a closing brace


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Shard(NamedTuple):
    """One file of records: its name, the number of its images, its size in bytes."""

    file: str
    images: int
    size: int


class Index(NamedTuple):
    """The index of the records of a folder; its lists are in the order of the records."""

    source: str
    layout: str
    shards: list[Shard]
    names: list[str]
    labels: Int[np.ndarray, " n"]
    class_names: dict[int, str]
    boxes: Int[np.ndarray, "n 4"] | None
    in_train: Bool[np.ndarray, " n"] | None
    skipped: Int[np.ndarray, " m"] | None = None  # numbers of empty records; the others were decoded
    notes: tuple[str, ...] = ()  # lines for the user, about the images


class Records:
    """A store of the images in the shards of a folder, or of images at some places in them.

    Each process opens a shard when it first reads it; threads share the reader. The store can be pickled.
    Names are held as UTF-8.
    """

    def __init__(
        self,
        root: Path,
        shards: list[Shard],
        names: Shaped[np.ndarray, " n"],
        places: Int[np.ndarray, " n"] | None = None,
    ) -> None:
        self._root, self._shards, self._names = root, shards, names
        self._places = np.arange(len(names)) if places is None else places  # numbers of the records
        self._ends = np.cumsum([shard.images for shard in shards])
        self._readers: dict[tuple[int, int], ArrayRecordReader] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}

    def take(self, indices: Int[np.ndarray, " m"]) -> "Records":
        """The images at these indices."""
        return Records(self._root, self._shards, self._names[indices], self._places[indices])

    def name(self, index: int) -> str:
        """The name of the file that the image was read from."""
        return self._names[index].decode()

    def read(self, index: int) -> bytes:
        """The bytes of a record.

        Raises:
            ValueError: its shard is corrupt or truncated.
            SkippedImage: the record is empty.
        """
        place = int(self._places[index])
        shard = int(np.searchsorted(self._ends, place, side="right"))
        key = os.getpid(), shard  # a reader does not survive a fork: it has threads and a file position
        path = self._root / self._shards[shard].file
        reader = self._readers.get(key)
        if reader is None:
            if len(self._readers) >= OPEN:
                oldest, *_ = list(self._readers)
                self._readers.pop(oldest, None)
            reader = self._readers.setdefault(key, open_shard(path))
        try:
            data: bytes = reader.read([place - int(self._ends[shard]) + self._shards[shard].images])[0]
        except RuntimeError as error:
            raise ValueError(f"{path} is corrupt or truncated: {error}") from error
        if not data:
            raise SkippedImage(f"{self.name(index)} was skipped when the records were written")
        return data


def open_shard(path: Path) -> ArrayRecordReader:
    """A reader of single records at random places; a truncated file appears to be empty.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():  # the reader would raise an error of no specific type
        raise FileNotFoundError(f"{path} is missing, a shard that {INDEX} lists")
    return ArrayRecordReader(str(path), options="readahead_buffer_size:0")


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Write a shard atomically; the same records make the same bytes.

    Raises:
        OSError: there is no space.
    """
    with replacing(path) as part:
        writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
        try:
            try:
                for record in records:
                    writer.write(record)
            finally:
                writer.close()
        except RuntimeError as error:
            if "No space left" in str(error) or "File too large" in str(error):
                raise no_space(path, "the shards that are whole are kept") from error
            raise OSError(f"{path} cannot be written: {error}") from error


def write_index(root: Path, index: Index) -> None:
    """Write the index of a folder; all its shards must exist."""
    arrays = {k: v.tolist() for k, v in index._asdict().items() if isinstance(v, np.ndarray)}
    fields = {"version": VERSION} | index._asdict() | arrays
    fields["notes"] = [visible(note) for note in index.notes]  # names may be of bytes that are not UTF-8
    if not index.notes:
        del fields["notes"]  # early versions do not read them
    text = json.dumps(fields, ensure_ascii=False)
    write_text(root / INDEX, f'{text[:-1]}{_SEAL}{_sha256(text)}"}}\n')


def read_index(root: Path) -> Index:
    """The index of a folder.

    Raises:
        ValueError: it is corrupt or of another version.
    """
    path = root / INDEX
    try:
        text, seal, digest = read_text(path, LARGEST).rpartition(_SEAL)
        if seal and digest != f'{_sha256(text + "}")}"}}\n':
            raise ValueError("its digest does not match")
        fields = json.loads(f"{text}}}" if seal else digest)  # early indexes have no digest
        version = fields.pop("version")
        if version not in (1, VERSION):
            raise ValueError(f"its version is {version}, not {VERSION}")
        index = Index(**fields)
        index = index._replace(
            shards=[Shard(*shard) for shard in index.shards],
            labels=np.array(index.labels, np.int32),
            class_names={int(label): name for label, name in index.class_names.items()},
            boxes=None if index.boxes is None else np.array(index.boxes, np.int32).reshape(-1, 4),
            in_train=None if index.in_train is None else np.array(index.in_train, bool),
            skipped=None if index.skipped is None else np.array(index.skipped, np.int32),
            notes=tuple(map(str, index.notes)),
        )
        _check_shard_names(index.shards)
        if not {*index.labels.tolist()} <= index.class_names.keys():
            raise ValueError("it does not name all classes")
        lists = (index.names, index.labels, index.boxes, index.in_train)
        lengths = {len(values) for values in lists if values is not None}
        if lengths != {sum(shard.images for shard in index.shards)}:
            raise ValueError("its lists and shards have different lengths")
        if index.skipped is not None and not np.isin(index.skipped, range(len(index.names))).all():
            raise ValueError("it lists skipped images that do not exist")
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not an index of prepared images: {error}") from error
    return index


def _check_shard_names(shards: list[Shard]) -> None:
    """Raise a ValueError if a shard lies outside the folder, or its numbers are not counts."""
    for shard in shards:
        if Path(shard.file).name != shard.file or shard.file in ("", ".", ".."):
            raise ValueError(f"its shard {shard.file!r} is not the name of a file in the folder")
        if not (isinstance(shard.images, int) and isinstance(shard.size, int) and shard.images >= 0):
            raise ValueError(f"its shard {shard.file} has {shard.images} images and {shard.size} bytes")


def check_shards(root: Path, index: Index) -> None:
    """Check that all shards exist, with the sizes that the index lists.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard has another size.
    """
    for shard in index.shards:
        file = root / shard.file
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing, a shard that {INDEX} lists")
        size = check_regular(file, None).st_size
        if size != shard.size:
            raise ValueError(f"{file} is truncated: found {size} bytes, expected {shard.size}")
