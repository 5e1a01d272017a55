"""Images in tar archives, read in place: an image is a byte range of the archive.

To list the images only the headers are read, 512 bytes each; the contents are skipped.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pddm_jax.system.regular import LARGEST, check_regular, read_bytes

BLOCK = 512
LONGEST_HEADER = 2**20  # bytes, of a name or a PAX header
WHOLE = -1  # instead of an offset: the image is a file of its own in a folder


class Place(NamedTuple):
    """A folder, a tar, or a tar within a tar."""

    path: Path
    inner: str = ""  # name of the inner tar
    start: int = 0  # first byte of the inner tar
    end: int | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.inner}" if self.inner else str(self.path)


class Member(NamedTuple):
    """A file in a tar: its name there, and its byte range in the outermost tar."""

    name: str
    offset: int
    size: int


class Stretches:
    """A store of images in tars and folders: place, byte range and name of each.

    They are held in arrays, for millions of images.
    """

    def __init__(
        self,
        places: Sequence[Place],
        of: Int[np.ndarray, " n"],
        offsets: Int[np.ndarray, " n"],
        sizes: Int[np.ndarray, " n"],
        names: Shaped[np.ndarray, " n"],
    ) -> None:
        self._places, self._of, self._offsets, self._sizes, self._names = places, of, offsets, sizes, names

    def __len__(self) -> int:
        return len(self._of)

    def take(self, indices: Int[np.ndarray, " m"]) -> "Stretches":
        """The images at these indices."""
        used, of = np.unique(self._of[indices], return_inverse=True)
        places = [self._places[place] for place in used.tolist()]
        arrays = (self._offsets, self._sizes, self._names)
        return Stretches(places, of, *(array[indices] for array in arrays))

    def name(self, index: int) -> str:
        """The folder or tar, and the name in it."""
        return f"{self._places[self._of[index]]}/{shown(self._names[index])}"

    def read(self, index: int) -> bytes:
        """The bytes of an image.

        Raises:
            OSError: its file is missing.
            ValueError: the tar ends within it, or it is too large or not a regular file.
        """
        path, offset = self._places[self._of[index]].path, int(self._offsets[index])
        if offset == WHOLE:
            return read_bytes(path / os.fsdecode(self._names[index]))
        size = int(self._sizes[index])
        if size > LARGEST:
            raise ValueError(f"{self.name(index)} has {size:,} bytes, more than the limit of {LARGEST:,}")
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise ValueError(f"{self.name(index)} is cut off: its tar is truncated")
        return data


def shown(name: bytes) -> str:
    """A file name as text; bytes that are not UTF-8 are escaped."""
    return name.decode("utf-8", "backslashreplace")


def members(place: Place) -> Iterator[Member]:
    """The files in a tar, in its order, without hidden files (`._x`).

    Raises:
        ValueError: it is not a tar, or compressed, truncated or corrupt; or a member is a link or a device,
            or its name leads out of the tar's folder.
    """
    check_regular(place.path, None)
    with place.path.open("rb") as file:
        end = place.end or file.seek(0, os.SEEK_END)
        file.seek(place.start)
        with _reading(place):
            tar = tarfile.open(fileobj=_Headers(file), mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
        with tar:
            while True:
                with _reading(place):
                    found = tar.next()  # offsets count from the file's first byte
                if found is None:
                    break
                check_member(place, found)
                if found.offset_data + found.size > end:
                    raise ValueError(f"{place} is truncated: it ends within {found.name!r}")
                if found.isreg() and not PurePosixPath(found.name).name.startswith("."):
                    yield Member(found.name, found.offset_data, found.size)
            offset = tar.offset
        # tarfile ends at any block that is not a header; the end of a tar is a block of zeros.
        file.seek(offset)
        if offset + BLOCK > end or any(file.read(BLOCK)):
            raise ValueError(f"{place} is truncated or corrupt: no header and no end at byte {offset}")


@dataclass
class _Headers:
    """A file that is read by headers of limited size: a tar states the size of a header itself."""

    file: BinaryIO

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header has {size:,} bytes, more than {LONGEST_HEADER:,}")
        return self.file.read(size)

    def seek(self, place: int) -> int:
        return self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()


@contextmanager
def _reading(place: Place) -> Iterator[None]:
    """Turn errors of tarfile at bad headers into a ValueError that names the tar."""
    try:
        yield
    except (tarfile.TarError, ArithmeticError, LookupError, ValueError) as error:
        raise ValueError(f"{place} is not an intact tar: {error}") from error


def check_member(place: Place, found: tarfile.TarInfo) -> None:
    """Raise a ValueError unless a member is a file or folder within the tar's folder."""
    if found.size < 0:
        raise ValueError(f"{place} is corrupt: its member {found.name!r} has {found.size} bytes")
    if found.name.startswith("/") or ".." in PurePosixPath(found.name).parts:
        raise ValueError(f"{place} is refused: its member {found.name!r} leads out of its folder")
    if not (found.isreg() or found.isdir()) or found.issparse():
        raise ValueError(f"{place} is refused: its member {found.name!r} is a link, device or sparse file")
