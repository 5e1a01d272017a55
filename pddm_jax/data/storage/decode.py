"""Encoded images in a store, decoded to RGB on access; an error names the image."""

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

from pddm_jax.data.storage.rgb import MAX_PIXELS, RefusedImage, to_rgb
from pddm_jax.system.console import visible
from pddm_jax.system.regular import read_bytes


def decode(
    data: bytes, box: Int[np.ndarray, "4"] | None = None, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels of an encoded image, or of a box in it.

    Grey, palette, CMYK and 16-bit images become 8-bit RGB; transparent images are laid on white; of an
    animation the first frame is taken. A box (left, top, right, bottom, half open) is in pixels as they are
    stored, as annotation tools show them: the part of it within the image is cut out before the image is
    rotated by its EXIF orientation.

    Args:
        data: the encoded image.
        box: the part to cut out.
        max_pixels: width times height above which the image is refused before it is decoded.

    Raises:
        ValueError: the data cannot be decoded, the image has too many pixels, or the box lies outside it.
    """
    try:
        return to_rgb(data, None if box is None else tuple(box.tolist()), max_pixels)
    except (MemoryError, RefusedImage):
        raise
    except UnidentifiedImageError as error:
        raise ValueError(f"could not be decoded: {error}") from error
    except Exception as error:  # Pillow's decoders raise errors of every kind on corrupt data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"could not be decoded: {reason}") from error


class SkippedImage(ValueError):
    """The image was skipped, by `--on_error=skip`, when its record was written."""


@runtime_checkable
class Store(Protocol):
    """Encoded images by index."""

    def __len__(self) -> int: ...

    def take(self, indices: Int[np.ndarray, " m"], /) -> "Store":
        """The images at these indices, and no data of the others: small when it is pickled."""

    def read(self, index: int, /) -> bytes:
        """The encoded image; ValueError or OSError that names it if it cannot be read."""

    def name(self, index: int, /) -> str:
        """The name of the image in errors."""


@dataclass(frozen=True)
class Files:
    """Image files as a store."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Int[np.ndarray, " m"]) -> "Files":
        """The files at these indices."""
        return Files([self.paths[index] for index in indices.tolist()])

    def read(self, index: int) -> bytes:
        """The bytes of a file; OSError if it is missing, ValueError if it is not a regular file."""
        return read_bytes(self.paths[index])

    def name(self, index: int) -> str:
        """The path of a file."""
        return str(self.paths[index])


class Encoded:
    """A sequence of images in a store; each access reads and decodes one image.

    It can be pickled and used by several threads.
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
        self._left_out = left_out  # None: not known
        self._max_pixels = max_pixels
        self._numbers = numbers  # in the listing of the data set; None: 0, 1, ...

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int | np.integer) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of an image.

        Raises:
            ValueError: it cannot be decoded, has too many pixels, or was skipped (`SkippedImage`).
            OSError: its file cannot be read.
        """
        return self.decode(index, self.read(index))

    def decode(self, index: int | np.integer, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of an image whose bytes are given; errors as by `[]`."""
        try:
            return decode(data, None if self._boxes is None else self._boxes[index], self._max_pixels)
        except ValueError as error:
            raise ValueError(visible(f"{self.name(index)} {error}")) from error

    def take(self, indices: Int[np.ndarray, " m"]) -> "Encoded":
        """The images at these indices, in this order; nothing is read."""
        boxes, left_out = (None if x is None else x[indices] for x in (self._boxes, self._left_out))
        store, numbers = self._store.take(indices), self.numbers()[indices]
        return Encoded(store, boxes, left_out, self._max_pixels, numbers)

    def read(self, index: int | np.integer) -> bytes:
        """The encoded bytes of one image, as they are on disk."""
        return self._store.read(int(index))

    def name(self, index: int | np.integer) -> str:
        """The name of an image in errors: its path."""
        return self._store.name(int(index))

    def numbers(self) -> Int[np.ndarray, " n"]:
        """The index of each image in the listing of the data set."""
        return np.arange(len(self)) if self._numbers is None else self._numbers

    def cropped(self, boxes: Int[np.ndarray, "n 4"]) -> "Encoded":
        """The same images cut to boxes: left, top, right, bottom in pixels, half open."""
        return Encoded(self._store, boxes, None, self._max_pixels, self._numbers)

    def limited(self, max_pixels: int) -> "Encoded":
        """The same images, with another limit of pixels."""
        return Encoded(self._store, self._boxes, self._left_out, max_pixels, self._numbers)

    def unknown(self) -> Int[np.ndarray, " m"]:
        """The indices of the images that may be unreadable: all, unless records were written of them."""
        return np.arange(len(self)) if self._left_out is None else np.flatnonzero(self._left_out)


class Survey(NamedTuple):
    """The result of reading images, by index."""

    errors: dict[int, Exception]  # of unreadable images
    keys: dict[int, "Key"]  # of readable images


Key = tuple[int, int]
"""Length and CRC-32 of an image's bytes: equal for equal images, rarely for others."""


def key_of(data: bytes) -> Key:
    """The key of an encoded image."""
    return len(data), zlib.crc32(data)


def survey(images: Encoded) -> Survey:
    """Read and decode the images by threads, with a progress bar.

    Images that were decoded when their records were written are not read again.
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
    """The error of each unreadable image, by index: see `survey`."""
    return survey(images).errors
