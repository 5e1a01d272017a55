"""Encoded images, decoded when they are asked for: each becomes RGB, or is named."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

WHITE = (255, 255, 255, 255)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # others may start programs, as EPS does
TURNS = {  # what undoes each orientation of EXIF
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, box: Int[np.ndarray, "4"] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB pixels of an encoded image, or of a box in it.

    Grey, palette, CMYK and 16-bit images become RGB of 8 bits; what is transparent lies on white. A box
    (left, top, right, bottom, half open) counts in the pixels as they are stored, which is what
    annotation tools show: it is cut out, as far as it lies within the image, before the image is turned
    as its EXIF orientation says.

    Raises:
        ValueError: the data are no image, or truncated; the box holds no pixel of it.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            turn = _turn(image)
            rgb = _rgb(image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("is no image that can be read: its format is not known") from error
    except Exception as error:  # Pillow's decoders raise errors of every kind on corrupt data
        raise ValueError(f"is no image that can be read whole: {error}") from error
    if box is not None:
        left, top, right, bottom = box.tolist()
        inner = (max(left, 0), max(top, 0), min(right, rgb.width), min(bottom, rgb.height))
        if inner[0] >= inner[2] or inner[1] >= inner[3]:
            raise ValueError(
                f"is {rgb.width} x {rgb.height} pixels, of which box {box.tolist()} holds none"
            )
        rgb = rgb.crop(inner)
    return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are whole, even where what is told about them is not
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65_535:
            raise ValueError(f"its values {values.min()} to {values.max()} are not of 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its values are floats, whose black and white are not known")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


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
        """The bytes of a file."""
        return self.paths[index].read_bytes()

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
    ) -> None:
        self._store = store
        self._boxes = boxes
        self._left_out = left_out  # None: it is not known which can be read

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, index: int | np.integer) -> UInt8[np.ndarray, "h w 3"]:
        """The pixels of an image.

        Raises:
            ValueError: it cannot be decoded, or was left out of records (`LeftOut`).
            OSError: its file cannot be read.
        """
        data = self.read(index)
        try:
            return decode(data, None if self._boxes is None else self._boxes[index])
        except ValueError as error:
            raise ValueError(f"{self.name(index)} {error}") from error

    def take(self, indices: Int[np.ndarray, " m"]) -> "Encoded":
        """Some of the images, in the order of these numbers; nothing is read."""
        arrays = (None if array is None else array[indices] for array in (self._boxes, self._left_out))
        return Encoded(self._store.take(indices), *arrays)

    def read(self, index: int | np.integer) -> bytes:
        """The encoded bytes of one image, as they are on disk."""
        return self._store.read(int(index))

    def name(self, index: int | np.integer) -> str:
        """What errors call an image: its path."""
        return self._store.name(int(index))

    def cropped(self, boxes: Int[np.ndarray, "n 4"]) -> "Encoded":
        """The same images, of each only a box: left, top, right, bottom in pixels, half open."""
        return Encoded(self._store, boxes)

    def unknown(self) -> Int[np.ndarray, " m"]:
        """The numbers of the images of which it is not known that they can be read."""
        return np.arange(len(self)) if self._left_out is None else np.flatnonzero(self._left_out)


def check(images: Encoded) -> dict[int, Exception]:
    """Decode the images, in threads, under a bar: the error of each that fails, by number.

    What was decoded when its record was written is not decoded again.
    """
    numbers = images.unknown().tolist()

    def attempt(index: int) -> Exception | None:
        try:
            images[index]
        except (ValueError, OSError) as error:
            return error
        return None

    with ThreadPoolExecutor() as pool:
        errors = pool.map(attempt, numbers)
        bar = tqdm(errors, total=len(numbers), desc="decoding", unit="image", disable=None)
        return {index: error for index, error in zip(numbers, bar, strict=True) if error is not None}
