"""Transforms of images to the network's size: random for training, fixed for test.

OpenCV uses one thread: images are transformed in parallel, each by one thread or process.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from pddm_jax.checks import check_choice

cv2.setNumThreads(1)

AUGMENT = {"shift": ("shift",), "crop": ("min_crop_area", "flip", "resize_crop_ratio", "color_jitter")}
"""The fields of each kind of augmentation; see `make_transform`."""

Pixels = UInt8[np.ndarray, "h w c"]
Box = tuple[int, int, int, int]


class Transform(NamedTuple):
    """The transform of a training image, which takes a generator, and that of a test image."""

    train: Callable[[Pixels, np.random.Generator], Pixels]
    test: Callable[[Pixels], Pixels]


def shifted(image: Pixels, dy: int, dx: int) -> Pixels:
    """The image moved down by dy and right by dx, padded with black."""
    moved = np.zeros_like(image)
    height, width = image.shape[:2]
    inner = image[max(-dy, 0) : max(height - dy, 0), max(-dx, 0) : max(width - dx, 0)]
    moved[max(dy, 0) :, max(dx, 0) :][: inner.shape[0], : inner.shape[1]] = inner
    return moved


def resized(image: Pixels, box: Box, size: int) -> Pixels:
    """The part (left, top, right, bottom) of a grey or RGB image, as size x size pixels.

    Bilinear, which is several times as fast as a filter that smooths first. A part that shrinks to less
    than half, of which bilinear skips pixels, is averaged over the area of each new pixel.
    """
    left, top, right, bottom = box
    how = cv2.INTER_AREA if max(right - left, bottom - top) > 2 * size else cv2.INTER_LINEAR
    part = cv2.resize(image[top:bottom, left:right], (size, size), interpolation=how)
    return part.reshape(size, size, -1)


def center(height: int, width: int, share: float) -> Box:
    """The box of the central square, with this share of the shorter side."""
    side = max(1, round(min(height, width) * share))
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def random_box(height: int, width: int, min_crop_area: float, rng: np.random.Generator) -> Box:
    """A box of a random share of the area, `min_crop_area` to 1, and a random aspect, 3:4 to 4:3.

    If ten draws do not fit into the image, the central square is taken.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6.
    """
    for _ in range(10):
        area = height * width * rng.uniform(min_crop_area, 1)
        aspect = math.exp(rng.uniform(-math.log(4 / 3), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers([width - w, height - h], endpoint=True).tolist()
            return left, top, left + w, top + h
    return center(height, width, 1.0)


def _shift(shift: int, image: Pixels, rng: np.random.Generator) -> Pixels:
    dy, dx = rng.integers(-shift, shift, size=2, endpoint=True).tolist()
    return shifted(image, dy, dx)


def _identity(image: Pixels) -> Pixels:
    return image


def jittered(image: Pixels, color_jitter: float, rng: np.random.Generator) -> Pixels:
    """The image with random changes of saturation and of the brightness of each channel.

    Both are multiplied by random factors of 1 - color_jitter to 1 + color_jitter, and clipped to 0 to 255.
    """
    channels = image.shape[-1]
    saturation, *brightness = rng.uniform(1 - color_jitter, 1 + color_jitter, 1 + channels)
    mixed = saturation * np.eye(channels) + (1 - saturation) / channels  # of the channel, and of grey
    return cv2.transform(image, np.array(brightness)[:, None] * mixed).reshape(image.shape)


def _crop(
    size: int,
    min_crop_area: float,
    flip: bool,
    color_jitter: float,
    image: Pixels,
    rng: np.random.Generator,
) -> Pixels:
    image = resized(image, random_box(image.shape[0], image.shape[1], min_crop_area, rng), size)
    if flip and rng.random() < 0.5:
        image = cv2.flip(image, 1).reshape(image.shape)
    return jittered(image, color_jitter, rng) if color_jitter else image


def _center_crop(size: int, resize_crop_ratio: float, image: Pixels) -> Pixels:
    return resized(image, center(image.shape[0], image.shape[1], 1 / resize_crop_ratio), size)


def make_transform(
    augment: str,
    image_size: int | None,
    shift: int,
    min_crop_area: float,
    flip: bool,
    resize_crop_ratio: float,
    color_jitter: float,
) -> Transform:
    """The transform of a name.

    - "shift", for images of one size: training images are moved by up to `shift` pixels in x and y; test
      images are unchanged.
    - "crop", for images of any size: a training image is cut to a random box, resized to `image_size`,
      flipped with probability 1/2 if `flip`, and `jittered`; a test image is cut to the central square, of
      1 / resize_crop_ratio of the shorter side.

    Raises:
        ValueError: the name is unknown, or a number is out of range.
    """
    check_choice("data.augment", augment, AUGMENT)
    if augment == "shift":
        if shift < 0:
            raise ValueError(f"data.shift must not be below 0, got {shift}")
        return Transform(partial(_shift, shift), _identity)
    if image_size is None or image_size < 1:
        raise ValueError(f'data.image_size must be given for data.augment="crop", got {image_size}')
    if not 0 < min_crop_area <= 1 or not 1 <= resize_crop_ratio < math.inf:
        raise ValueError(
            "data.min_crop_area must lie in 0 to 1 and data.resize_crop_ratio not below 1, "
            f"got {min_crop_area} and {resize_crop_ratio}"
        )
    if not 0 <= color_jitter <= 1:
        raise ValueError(f"data.color_jitter must lie in 0 to 1, got {color_jitter}")
    return Transform(
        partial(_crop, image_size, min_crop_area, flip, color_jitter),
        partial(_center_crop, image_size, resize_crop_ratio),
    )
