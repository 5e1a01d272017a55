"""Images in tars, read where they lie: an image is a stretch of a file, and no tar is unpacked.

Of a tar only the headers are read to find its images, one each 512 bytes and a jump over the contents.
"""

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

BLOCK = 512
WHOLE = -1  # in the place of an offset: the image is a file by itself, in a folder


class Place(NamedTuple):
    """What images lie in: a folder, a tar, or a tar within a tar."""

    path: Path
    inner: str = ""  # the inner tar
    start: int = 0  # of the inner tar
    end: int | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.inner}" if self.inner else str(self.path)


class Member(NamedTuple):
    """A file in a tar: its name there, and where its bytes are in the file of the (outermost) tar."""

    name: str
    offset: int
    size: int


class Stretches:
    """A store of images that lie in tars and folders: which place, where in it, and by which name.

    Made of arrays, for millions of images.
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
        """Some of the images."""
        used, of = np.unique(self._of[indices], return_inverse=True)
        places = [self._places[place] for place in used.tolist()]
        arrays = (self._offsets, self._sizes, self._names)
        return Stretches(places, of, *(array[indices] for array in arrays))

    def name(self, index: int) -> str:
        """The folder or the tar, and the name in it."""
        return f"{self._places[self._of[index]]}/{shown(self._names[index])}"

    def read(self, index: int) -> bytes:
        """The bytes of an image.

        Raises:
            ValueError: the tar ends within it.
        """
        path, offset = self._places[self._of[index]].path, int(self._offsets[index])
        if offset == WHOLE:
            return (path / os.fsdecode(self._names[index])).read_bytes()
        size = int(self._sizes[index])
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) != size:
            raise ValueError(f"{self.name(index)} is cut off: its tar is truncated")
        return data


def shown(name: bytes) -> str:
    """A file's name as text, whatever bytes it is of."""
    return name.decode("utf-8", "backslashreplace")


def members(place: Place) -> Iterator[Member]:
    """The files in a tar, in its order, without what systems leave beside them (`._x`).

    Raises:
        ValueError: it is no tar, is compressed, truncated or corrupt; or a member is a link or a device, or
            its name would lead out of the tar's folder.
    """
    with place.path.open("rb") as file:
        end = place.end or file.seek(0, os.SEEK_END)
        file.seek(place.start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:  # offsets count from the file's first byte
                while (found := tar.next()) is not None:
                    check_member(place, found)
                    if found.offset_data + found.size > end:
                        raise ValueError(f"{place} is truncated: it ends within {found.name!r}")
                    if found.isreg() and not PurePosixPath(found.name).name.startswith("."):
                        yield Member(found.name, found.offset_data, found.size)
                offset = tar.offset
        except tarfile.TarError as error:
            raise ValueError(f"{place} is no whole tar: {error}") from error
        # tarfile takes whatever is no header for the end, which is a block of zeros.
        file.seek(offset)
        if offset + BLOCK > end or any(file.read(BLOCK)):
            raise ValueError(f"{place} is truncated or corrupt: byte {offset} is neither header nor end")


def check_member(place: Place, found: tarfile.TarInfo) -> None:
    """See that a member is a file or folder within the tar's own; ValueError, which names it, if not."""
    if found.name.startswith("/") or ".." in PurePosixPath(found.name).parts:
        raise ValueError(f"{place} is refused: its member {found.name!r} leads out of its folder")
    if not (found.isreg() or found.isdir()) or found.issparse():
        raise ValueError(f"{place} is refused: its member {found.name!r} is a link, device or sparse file")
