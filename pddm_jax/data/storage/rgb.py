"""8-bit RGB pixels of encoded images of any mode, bit depth and kind of transparency that Pillow decodes.

An image is converted strip by strip, so that a large image needs little more memory than its decoded form
(1 byte a pixel for grey and palettes, else up to 4) and the result (3 bytes a pixel).
"""

import ctypes
import functools
import io
import os
import struct
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

WHITE = (255, 255, 255, 255)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # others may start programs, as EPS does
MAX_PIXELS = 64_000_000
"""Default limit of the pixels of an image, which takes up to 450 MB, decoded and as RGB."""

STRIP = 2**22
"""Pixels that are converted to RGB at a time."""

LARGE = 2**24
"""Pixels above which images are decoded one at a time, however many threads there are."""

TURNS = {  # by EXIF orientation: quarter turns after a flip from left to right, which undo it
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (1, True),
    6: (3, False),
    7: (3, True),
    8: (1, False),
}

PHOTOMETRIC, BITS, TILE_WIDTH, TILE_LENGTH = 262, 258, 322, 323  # tags of TIFF

Box = tuple[int, int, int, int]
Pixels = UInt8[np.ndarray, "h w 3"]

_large = threading.Lock()
# What Pillow warns of (odd EXIF, tags beyond the end of a file) is an error here or does not matter.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class RefusedImage(ValueError):
    """An intact image that is refused for its size, its box or its values."""


class Opened(NamedTuple):
    """An image whose header was read, with facts that Pillow does not report."""

    image: Image.Image
    low: Image.Image | None  # the lower bytes of 16-bit colors, where a color is transparent
    white: int  # the largest value of grey of more than 8 bits
    inverted: bool  # whether 0 is white there


def to_rgb(data: bytes, box: Box | None, max_pixels: int) -> Pixels:
    """The pixels of an encoded image, or of a box in it, turned as its EXIF orientation says.

    Raises:
        RefusedImage: it has more than `max_pixels` pixels, or none in the box; or its values are no colors.
        Exception: any exception of Pillow, if the data are corrupt.
    """
    opened = _open(data, max_pixels)
    width, height = opened.image.size
    with _large if width * height > LARGE else nullcontext():
        by_pillow = _turn(opened.image) if opened.image.format == "TIFF" else None
        opened.image.load()
        if by_pillow is not None:  # it has turned a TIFF; the box counts in pixels as they were stored
            return _pixels(opened, _turned_box(opened.image.size, box, *by_pillow))
        turn = _turn(opened.image)
        pixels = _pixels(opened, _inner(opened.image.size, box))
    if turn is None:
        return pixels
    quarters, flipped = turn
    return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if flipped else pixels, quarters))


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height by the header; errors are those of Pillow."""
    return _image(data).size


def _image(data: bytes) -> ImageFile.ImageFile:
    """`Image.open` without its own limit of pixels."""
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accepts = Image.OPEN[name]
        try:
            if accepts is None or accepts(data[:16]) is True:
                return factory(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # as Image.open does: the next format may fit
    raise UnidentifiedImageError(f"its format is not one of {', '.join(FORMATS)}")


def _open(data: bytes, max_pixels: int) -> Opened:
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow checks frames and tiles by it
    image = _image(data)
    if image.format == "TIFF":
        _silence_libtiff()
    tags = getattr(image, "tag_v2", {})
    for width, height in (image.size, (tags.get(TILE_WIDTH, 0), tags.get(TILE_LENGTH, 0))):
        if width * height > max_pixels:
            raise RefusedImage(
                f"has {width:,} x {height:,} = {width * height:,} pixels, more than data.max_pixels = "
                f"{max_pixels:,}: make it smaller, or raise data.max_pixels"
            )
    wide = image.mode.startswith("I;16")
    white = 4095 if wide and tags.get(BITS) == (12,) else 65_535
    return Opened(image, _with_key(image, data), white, wide and tags.get(PHOTOMETRIC) == 0)


def _with_key(image: ImageFile.ImageFile, data: bytes) -> ImageFile.ImageFile | None:
    """Set the transparent color of a PNG to the values that its pixels get when they are decoded.

    Returns:
        For 16-bit colors, of which Pillow decodes the upper bytes, the image of the lower bytes; else None.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return None
    depth = data[24]
    if image.mode == "L":  # of 2 and 4 bits, values are scaled to 8
        image.info["transparency"] = (key & 2**depth - 1) * (255 // (2**depth - 1))
    if image.mode == "RGB" and depth == 8:
        image.info["transparency"] = tuple(value & 255 for value in key)
    if image.mode != "RGB" or depth != 16:
        return None
    low = _image(data)
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]  # takes the second byte of two
    return low


@functools.cache
def _silence_libtiff() -> None:
    """Stop libtiff, if it is found, from printing errors, which Pillow raises too."""
    bundled = Path(PIL.__file__).parents[1].glob("pillow.libs/libtiff*")
    for name in (*map(str, bundled), "libtiff.so.6", "libtiff.so.5"):
        try:
            library = ctypes.CDLL(name, mode=getattr(os, "RTLD_NOLOAD", 0))  # only what Pillow has loaded
            library.TIFFSetErrorHandler(None)
            library.TIFFSetWarningHandler(None)
        except (OSError, AttributeError):
            continue


def _turn(image: Image.Image) -> tuple[int, bool] | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # corrupt metadata; the pixels may be intact
        return None


def _inner(size: tuple[int, int], box: Box | None) -> Box:
    """The part of a box that lies within an image; without a box the whole image."""
    width, height = size
    if box is None:
        return 0, 0, width, height
    left, top, right, bottom = box
    inner = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        raise RefusedImage(f"has {width} x {height} pixels, but box {[*box]} contains none of them")
    return inner


def _turned_box(turned: tuple[int, int], box: Box | None, quarters: int, flipped: bool) -> Box:
    """The inner part of a box after its image was turned, to the given size."""
    width, height = turned[::-1] if quarters % 2 else turned
    left, top, right, bottom = _inner((width, height), box)
    if flipped:
        left, right = width - right, width - left
    for _ in range(quarters):
        left, top, right, bottom = top, width - right, bottom, width - left
        width, height = height, width
    return left, top, right, bottom


def _pixels(opened: Opened, inner: Box) -> Pixels:
    """The RGB pixels of a part of a decoded image."""
    left, top, right, bottom = inner
    plain = opened.image.mode == "RGB" and not opened.image.has_transparency_data  # nothing to convert
    rows = max(1, (LARGE if plain else STRIP) // (right - left))
    if inner == (0, 0, *opened.image.size) and bottom <= rows:
        return _strip(opened)
    pixels = np.empty((bottom - top, right - left, 3), np.uint8)
    for first in range(top, bottom, rows):
        part = (left, first, right, min(first + rows, bottom))
        low = None if opened.low is None else opened.low.crop(part)
        strip = opened._replace(image=opened.image.crop(part), low=low)
        pixels[first - top : first - top + rows] = _strip(strip)
    return pixels


def _strip(opened: Opened) -> Pixels:
    image = opened.image
    if image.mode.startswith("I"):
        return np.repeat(_grey(opened)[..., None], 3, axis=2)
    if image.mode == "F":
        raise RefusedImage(
            "has floating-point pixels of an unknown range: convert it to 8 or 16 bits per channel"
        )
    if opened.low is not None:
        high, low = (np.asarray(x).astype(np.uint16) for x in (image, opened.low))
        hidden = (high << 8 | low == np.array(image.info["transparency"])).all(axis=2, keepdims=True)
        return np.where(hidden, np.uint8(255), high.astype(np.uint8))
    if image.mode == "La":  # Pillow converts it to RGBA only by way of LA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _grey(opened: Opened) -> UInt8[np.ndarray, "h w"]:
    """Grey of 12 or 16 bits, which Pillow would cut off at 255."""
    values = np.asarray(opened.image)
    if opened.image.mode == "I" and (values.min() < 0 or values.max() > 65_535):
        raise RefusedImage(f"has values {values.min()} to {values.max()}, expected 16 bits (0 to 65535)")
    grey = np.round(values / (opened.white / 255)).astype(np.uint8)
    if opened.inverted:
        grey = 255 - grey
    key = opened.image.info.get("transparency")
    return grey if key is None else np.where(values == key, np.uint8(255), grey)
