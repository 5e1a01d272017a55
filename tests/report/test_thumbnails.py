"""Thumbnails decoded by Pillow: size, colors, and the limit of bytes."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pddm_jax.report.thumbnails import Thumbnails
from tests.report.samples import noise

PREFIX = "data:image/webp;base64,"
MANY = 10**9


def decoded(url):
    assert url.startswith(PREFIX)
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix(PREFIX), validate=True))) as picture:
        assert picture.format == "WEBP"
        return np.asarray(picture.convert("RGB")).astype(int)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 64])
@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (100, 50), (37, 200), (28, 28), (5, 9), (1, 1), (1, 400), (400, 1)]
)
def test_size_and_aspect_ratio(height, width, side, channels):
    found = decoded(Thumbnails(side, MANY).url([noise(0, height, width, channels)], 0))
    assert max(found.shape[:2]) == min(side, max(height, width))
    scale = min(1, side / max(height, width))
    for size, original in zip(found.shape[:2], (height, width), strict=True):
        assert size >= 1
        assert abs(size - original * scale) < 1


def test_colors_and_orientation():
    image = np.zeros((120, 240, 3), np.uint8)
    corners = {(0, 0): (250, 20, 20), (0, 1): (20, 250, 20), (1, 0): (20, 20, 250), (1, 1): (240, 240, 240)}
    for (row, column), color in corners.items():
        image[60 * row : 60 * (row + 1), 120 * column : 120 * (column + 1)] = color
    found = decoded(Thumbnails(64, MANY).url([image], 0))
    assert found.shape == (32, 64, 3)
    for (row, column), color in corners.items():
        center = found[16 * row + 4 : 16 * row + 12, 32 * column + 8 : 32 * column + 24]
        assert np.abs(center - color).max() < 25


def test_grey_levels():
    image = np.repeat(np.linspace(0, 255, 96).astype(np.uint8)[None, :, None], 48, axis=0)
    found = decoded(Thumbnails(48, MANY).url([image], 0))
    assert found.shape == (24, 48, 3)
    assert np.ptp(found, axis=2).max() <= 3
    expected = image[0, :, 0].astype(int).reshape(48, 2).mean(axis=1)
    assert np.abs(found.mean(axis=(0, 2)) - expected).max() < 8


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("shape", [(40, 30, 1), (40, 30, 3), (1, 1, 1)])
def test_images_of_one_color(value, shape):
    assert (
        np.abs(decoded(Thumbnails(16, MANY).url([np.full(shape, value, np.uint8)], 0)) - value).max() <= 3
    )


def images_of_many_sizes():
    """Of noise and of one color: their thumbnails differ in length."""
    rng = np.random.default_rng(1)
    for n in range(40):
        height, width = rng.integers(1, 60, 2).tolist()
        yield noise(n, height, width, 3) if n % 3 else np.full((height, width, 3), n, np.uint8)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1])
def test_urls_stop_at_the_limit_of_bytes(share):
    images = [*images_of_many_sizes()]
    whole = [Thumbnails(32, MANY).url([image], 0) for image in images]
    limit = int(share * sum(len(url) for url in whole))
    thumbnails, used = Thumbnails(32, limit), 0
    for n, url in enumerate(whole):
        used += len(url)
        if used <= limit:
            assert thumbnails.url(images, n) == url
        else:
            assert thumbnails.url(images if n == 0 or used - len(url) <= limit else None, n) is None


def test_a_limit_that_fits_exactly():
    image = noise(2, 20, 20, 3)
    url = Thumbnails(64, MANY).url([image], 0)
    exact = Thumbnails(64, len(url))
    assert exact.url([image], 0) == url
    assert exact.url([image], 0) is None
    assert Thumbnails(64, len(url) - 1).url([image], 0) is None
    assert url.isascii()  # so that characters are bytes
