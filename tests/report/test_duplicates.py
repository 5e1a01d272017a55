"""Duplicates across classes against correlations of block means."""

import io

import numpy as np
import pytest
from PIL import Image

from pddm_jax.report.label_errors import duplicates
from tests.report.samples import Listed, embedded, noise, normal


def smooth(seed, size=64, channels=3):
    """Random colors, without edges."""
    image = Image.fromarray(noise(seed, 8, 8, 3)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image if channels == 3 else image.convert("L")).reshape(size, size, channels)


def encoded_again(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))


def correlation(a, b):
    """Of the luma (BT.601) of two images of 64 x 64 pixels, in means of 2 x 2."""
    means = [(x @ [0.299, 0.587, 0.114]).reshape(32, 2, 32, 2).mean(axis=(1, 3)) for x in (a, b)]
    return np.corrcoef(*(x.ravel() for x in means))[0, 1]


def pairs_of(data):
    return {(pair["first"], pair["second"]): pair["correlation"] for pair in duplicates(data)}


@pytest.mark.parametrize("channels", [1, 3])
def test_copies_under_another_class(channels):
    images = [smooth(n, channels=channels) for n in range(24)]
    x, labels = normal(6, 24), np.arange(24) % 4
    images[5] = images[2]
    images[11] = encoded_again(images[8].squeeze()).reshape(images[8].shape)
    images[17] = images[13]  # of one class
    images[22] = smooth(20, size=128, channels=channels)
    x[[5, 11, 17, 22]] = x[[2, 8, 13, 20]] + 0.01
    found = pairs_of(embedded(x, labels, Listed(images)))
    assert {*found} == {(2, 5), (8, 11), (20, 22)}
    assert max(found, key=found.get) == (2, 5)
    assert found[2, 5] == pytest.approx(1, abs=1e-12)
    assert all(0.98 <= correlation <= 1 for correlation in found.values())


def test_correlations_of_changed_copies():
    images, levels = [], [2, 5, 9, 14, 24, 27, 30, 70]  # noise of the copies
    for n, level in enumerate(levels):
        images += [smooth(n), np.clip(smooth(n) + level * normal(n, 64 * 64, 3).reshape(64, 64, 3), 0, 255)]
    images = np.stack(images).astype(np.uint8)
    x = np.repeat(normal(7, len(levels)), 2, axis=0)
    expected = {(n, n + 1): correlation(images[n], images[n + 1]) for n in range(0, len(images), 2)}
    assert not [value for value in expected.values() if 0.978 < value < 0.982]  # roundings decide these
    expected = {pair: value for pair, value in expected.items() if value >= 0.98}
    assert len(expected) == 5
    found = pairs_of(embedded(x, np.arange(len(images)), images))
    assert found == pytest.approx(expected, abs=2e-3)
    assert [*found.values()] == sorted(found.values(), reverse=True)


def test_copies_with_distant_embeddings_are_not_compared():
    x, labels, images = normal(8, 60), np.arange(60) % 6, noise(8, 60, 6, 6, 3)
    images[1], x[1] = images[0], 100
    assert duplicates(embedded(x, labels, images)) == []
    x[1] = x[0]
    assert {*pairs_of(embedded(x, labels, images))} == {(0, 1)}


@pytest.mark.parametrize("make", [lambda n: noise(n, 40, 40, 3), lambda n: noise(n, 7, 9, 1), smooth])
def test_random_images_are_no_duplicates(make):
    images = Listed(make(n) for n in range(100))
    assert duplicates(embedded(normal(9, 100, 2), np.arange(100) % 9, images)) == []


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_color_are_not_compared(channels):
    values = [0, 0, 255, 255, 128, 128, 77, 78]
    images = Listed(np.full((40, 30, channels), value, np.uint8) for value in values)
    assert duplicates(embedded(np.zeros((8, 2)), np.arange(8), images)) == []


@pytest.mark.parametrize(
    ("labels", "count"), [([0], 0), ([0, 0], 0), ([0, 1], 1), ([4] * 30, 0), ([*range(3)], 3)]
)
def test_few_images_or_classes(labels, count):
    images = np.repeat(smooth(0)[None], len(labels), axis=0)
    assert len(pairs_of(embedded(np.zeros((len(labels), 2)), labels, images))) == count


def test_two_classes_have_one_pair_that_is_the_most_similar():
    images = np.stack([smooth(0), smooth(0), smooth(1), smooth(1)])
    images[1] = np.clip(images[1] + 6 * normal(3, 64 * 64, 3).reshape(64, 64, 3), 0, 255).astype(np.uint8)
    assert pairs_of(embedded(np.zeros((4, 2)), [3, 8, 3, 8], images)).keys() == {(2, 3)}
    assert pairs_of(embedded(np.zeros((4, 2)), [3, 8, 4, 8], images)).keys() == {(0, 1), (2, 3)}
