"""Encoded images, decoded when they are asked for: each becomes RGB, or is named."""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import UnidentifiedImageError
from tqdm import tqdm

from pddm_jax.data.storage.rgb import MAX_PIXELS, Unfit, to_rgb
from pddm_jax.system.console import visible
from pddm_jax.system.regular import read_bytes


def decode(
    data: bytes, box: Int[np.ndarray, "4"] | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels of an encoded image, or of a box in it.

    Grey, palette, CMYK and 16-bit images become RGB of 8 bits; what is transparent lies on white; of
    animations the first frame is taken. A box (left, top, right, bottom, half open) counts in the pixels as
    they are stored, which is what annotation tools show: it is cut out, as far as it lies within the image,
    before the image is turned as its EXIF orientation says.

    Args:
        data: the encoded image.
        box: what is cut out of it.
        max_pixels: width times height above which the image is refused before it is decoded.

    Raises:
        ValueError: the data are no image, or truncated; it has too many pixels; the box holds none of them.
    """
    try:
        return to_rgb(data, None if box is None else tuple(box.tolist()), max_pixels)
    except (MemoryError, Unfit):
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"is no image that can be read: {error}") from error
    except Exception as error:  # Pillow's decoders raise errors of every kind on corrupt data
        told = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"is no image that can be read whole: {told}") from error


class LeftOut(ValueError):
    """An image was skipped, as it was asked for, when its record was written."""


@runtime_checkable
class Store(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int: ...

    def take(self, indices: Int[np.ndarray, " m"], /) -> "Store":
        """Some of the images, numbered anew, and nothing of the others: small to be sent elsewhere."""

    def read(self, index: int, /) -> bytes:
        """The encoded image; ValueError or OSError, which names it, where it cannot be read."""

    def name(self, index: int, /) -> str:
        """What an error calls the image."""


@dataclass(frozen=True)
class Files:
    """Image files as a store."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Int[np.ndarray, " m"]) -> "Files":
        """Some of the files."""
        return Files([self.paths[index] for index in indices.tolist()])

    def read(self, index: int) -> bytes:
        """The bytes of a file; OSError where it is missing, ValueError where it is no regular file."""
        return read_bytes(self.paths[index])

    def name(self, index: int) -> str:
        """The path of a file."""
        return str(self.paths[index])


class Encoded:
    """A sequence of images that are read from a store and decoded one by one, each time they are asked for.

    It can be pickled, and be used by several threads.
    """

    def __init__(
        self,
        store: Store,
        boxes: Int[np.ndarray, "n 4"] | None = None,
        left_out: Bool[np.ndarray, " n"] | None = None,
        max_pixels: int = MAX_PIXELS,
        numbers: Int[np.ndarray, " n"] | None = None,
    ) -> None:
        self._store = store
        self._boxes = boxes
        self._left_out = left_out  # None: it is not known which can be read
        self._max_pixels = max_pixels
        self._numbers = numbers  # in the listing of the data set; None: 0, 1, ...

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int | np.integer) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of an image.

        Raises:
            ValueError: it cannot be decoded, has too many pixels, or was left out of records (`LeftOut`).
            OSError: its file cannot be read.
        """
        return self.decode(index, self.read(index))

    def decode(self, index: int | np.integer, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of an image whose bytes were read; ValueError, which names it, as by `[]`."""
        try:
            return decode(data, None if self._boxes is None else self._boxes[index], self._max_pixels)
        except ValueError as error:
            raise ValueError(visible(f"{self.name(index)} {error}")) from error

    def take(self, indices: Int[np.ndarray, " m"]) -> "Encoded":
        """Some of the images, in the order of these numbers; nothing is read."""
        boxes, left_out = (None if x is None else x[indices] for x in (self._boxes, self._left_out))
        store, numbers = self._store.take(indices), self.numbers()[indices]
        return Encoded(store, boxes, left_out, self._max_pixels, numbers)

    def read(self, index: int | np.integer) -> bytes:
        """The encoded bytes of one image, as they are on disk."""
        return self._store.read(int(index))

    def name(self, index: int | np.integer) -> str:
        """What errors call an image: its path."""
        return self._store.name(int(index))

    def numbers(self) -> Int[np.ndarray, " n"]:
        """The places of the images in the listing that they were taken from."""
        return np.arange(len(self)) if self._numbers is None else self._numbers

    def cropped(self, boxes: Int[np.ndarray, "n 4"]) -> "Encoded":
        """The same images, of each only a box: left, top, right, bottom in pixels, half open."""
        return Encoded(self._store, boxes, None, self._max_pixels, self._numbers)

    def limited(self, max_pixels: int) -> "Encoded":
        """The same images, of which those with more pixels are refused."""
        return Encoded(self._store, self._boxes, self._left_out, max_pixels, self._numbers)

    def unknown(self) -> Int[np.ndarray, " m"]:
        """The numbers of the images of which it is not known that they can be read."""
        return np.arange(len(self)) if self._left_out is None else np.flatnonzero(self._left_out)


class Survey(NamedTuple):
    """What was found when images were read, by number."""

    errors: dict[int, Exception]  # of those that cannot be read
    keys: dict[int, "Key"]  # of those that can


Key = tuple[int, int]
"""Length and CRC of an image's bytes: equal for equal images, and hardly for others."""


def key_of(data: bytes) -> Key:
    """The key of an encoded image."""
    return len(data), zlib.crc32(data)


def survey(images: Encoded) -> Survey:
    """Read and decode the images, in threads, under a bar.

    What was decoded when its record was written is not read again.
    """
    numbers = images.unknown().tolist()

    def attempt(index: int) -> Exception | Key:
        try:
            data = images.read(index)
            images.decode(index, data)
        except (ValueError, OSError) as error:
            return error
        return key_of(data)

    found = Survey({}, {})
    with ThreadPoolExecutor() as pool:
        results = pool.map(attempt, numbers)
        bar = tqdm(results, total=len(numbers), desc="decoding", unit="image", disable=None)
        for index, result in zip(numbers, bar, strict=True):
            if isinstance(result, Exception):
                found.errors[index] = result
            else:
                found.keys[index] = result
    return found


def check(images: Encoded) -> dict[int, Exception]:
    """The error of each image that cannot be read, by number: see `survey`."""
    return survey(images).errors
