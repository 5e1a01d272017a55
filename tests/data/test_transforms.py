"""Transforms: shifts, random boxes, resizing, color jitter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.data import (
    make_transform,
)
from pddm_jax.data.transforms import center, jittered, random_box, resized, shifted


def shifted_by_loop(image, dy, dx):
    moved = np.zeros_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if 0 <= y + dy < image.shape[0] and 0 <= x + dx < image.shape[1]:
                moved[y + dy, x + dx] = image[y, x]
    return moved


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.data())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_shifted_is_the_loop(height, width, channels, data):
    image = np.arange(1, height * width * channels + 1, dtype=np.uint8).reshape(height, width, channels)
    before = image.copy()
    dy, dx = (data.draw(st.integers(-side, side)) for side in (height, width))
    np.testing.assert_array_equal(shifted(image, dy, dx), shifted_by_loop(image, dy, dx))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("dy", "dx"), [(4, 0), (-4, 0), (0, 4), (0, -4), (9, 9), (-9, -9)])
def test_shifted_out_of_the_picture_is_black(dy, dx):
    image = np.full((3, 3, 1), 255, np.uint8)
    np.testing.assert_array_equal(shifted(image, dy, dx), np.zeros_like(image))


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1), st.integers(0, 2**32))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_a_random_box_lies_within_the_image(height, width, min_crop_area, seed):
    left, top, right, bottom = random_box(height, width, min_crop_area, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_random_boxes_have_the_areas_and_aspects_that_are_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(300, 400, 0.2, rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / (300 * 400), width / height
    assert 0.19 < area.min() < 0.25
    assert 0.9 < area.max() <= 1
    assert 0.73 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.36
    corners = boxes[:, :2] / np.maximum([400, 300] - np.stack([width, height], 1), 1)
    np.testing.assert_allclose(corners.mean(axis=0), 0.5, atol=0.03)


def test_an_image_too_narrow_for_any_box_gives_its_middle():
    assert random_box(10, 1000, 1.0, np.random.default_rng(0)) == (495, 0, 505, 10)
    assert center(20, 10, 0.5) == (2, 7, 7, 12)
    assert center(3, 1000, 0.1) == (499, 1, 500, 2)


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """The image at the middles of size x size pixels, between its own, in float64."""
    found = np.zeros((size, size, image.shape[-1]))
    for row in range(size):
        for column in range(size):
            weights = 0.0
            for y in range(image.shape[0]):
                for x in range(image.shape[1]):
                    at_y = np.clip((row + 0.5) * image.shape[0] / size - 0.5, 0, image.shape[0] - 1)
                    at_x = np.clip((column + 0.5) * image.shape[1] / size - 0.5, 0, image.shape[1] - 1)
                    weight = max(0, 1 - abs(at_y - y)) * max(0, 1 - abs(at_x - x))
                    found[row, column] += weight * image[y, x]
                    weights += weight
            assert weights == pytest.approx(1)
    return found


@pytest.mark.parametrize("size", [5, 8, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_is_cut_out_and_read_between_its_pixels(size, channels):
    image = np.random.default_rng(0).integers(0, 256, (12, 16, channels), dtype=np.uint8)
    found = resized(image, (4, 2, 12, 11), size)
    np.testing.assert_allclose(found, bilinear(image[2:11, 4:12], size), atol=1)
    if size == 8:
        np.testing.assert_array_equal(resized(image, (4, 2, 12, 10), size), image[2:10, 4:12])


def test_a_box_that_shrinks_much_is_averaged_over_the_area_of_each_pixel():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    blocks = image.reshape(6, 5, 6, 5, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resized(image, (0, 0, 30, 30), 6), blocks, atol=1)


def test_colours_change_by_the_factors_that_were_drawn():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for seed in range(20):
        saturation, *gains = np.random.default_rng(seed).uniform(0.6, 1.4, 4)
        found = jittered(image, 0.4, np.random.default_rng(seed))
        for y in range(5):
            for x in range(7):
                grey = sum(float(value) for value in image[y, x]) / 3
                for channel in range(3):
                    value = gains[channel] * (grey + saturation * (image[y, x, channel] - grey))
                    assert abs(found[y, x, channel] - min(max(value, 0), 255)) < 1
    grey_image, rng = image[..., :1], np.random.default_rng(3)
    gain = np.random.default_rng(3).uniform(0.6, 1.4, 2)[1]
    np.testing.assert_allclose(
        jittered(grey_image, 0.4, rng), np.minimum(gain * grey_image.astype(float), 255), atol=1
    )
    crop = make_transform("crop", 6, 0, 1.0, False, 1.0, 0.4)
    seen = {crop.train(image, np.random.default_rng(seed)).tobytes() for seed in range(5)}
    assert len(seen) == 5
    np.testing.assert_array_equal(
        crop.test(image), make_transform("crop", 6, 0, 1.0, False, 1.0, 0.0).test(image)
    )


def test_training_crops_flip_every_second_image_and_test_crops_none():
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (100, 1, 3))
    transform = make_transform("crop", 20, 0, 0.9, True, 1.25, 0.0)
    rng = np.random.default_rng(0)
    falling = [
        bool((np.diff(transform.train(ramp, rng)[0, :, 0].astype(int)) < 0).all()) for _ in range(400)
    ]
    assert 160 < sum(falling) < 240
    still = make_transform("crop", 20, 0, 0.9, False, 1.25, 0.0)
    assert all((np.diff(still.train(ramp, rng)[0, :, 0].astype(int)) > 0).all() for _ in range(50))
    seen = transform.test(ramp)
    assert seen.shape == (20, 20, 3)
    np.testing.assert_allclose(seen[0, [0, -1], 0], [2 * 11.5, 2 * 87.5], atol=2)  # the middle 80 pixels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("turn", 32, 0, 1.0, True, 1.0, 0.0), r"data\.augment.*'crop', 'shift'.*'turn'"),
        (("shift", 32, -1, 1.0, True, 1.0, 0.0), r"data\.shift.*-1"),
        (("crop", None, 0, 1.0, True, 1.0, 0.0), r"data\.image_size"),
        (("crop", 32, 0, 0.0, True, 1.0, 0.0), r"data\.min_crop_area"),
        (("crop", 32, 0, 1.0, True, 1.0, 1.5), r"data\.color_jitter.*1\.5"),
        (("crop", 32, 0, 0.5, True, 0.5, 0.0), r"data\.resize_crop_ratio"),
    ],
)
def test_transforms_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_transform(*arguments)
