"""Batches for training and for test."""

import numpy as np
import pytest

from pddm_jax.data import (
    Images,
    hold_out,
    make_transform,
    ordered_batches,
    train_batches,
)
from tests.data.test_sampler import LABELS, SIZES, K, P, sampler

SIDE = 5
# Image n holds the bytes n + 1 in a frame of zeros, so a shift by one pixel loses nothing.
NUMBERED = Images(
    np.pad(
        np.tile(np.arange(1, len(LABELS) + 1, dtype=np.uint8)[:, None, None], (1, 3, 3)),
        ((0, 0), (1, 1), (1, 1)),
    )[..., None],
    LABELS.astype(np.int32),
    {},
)


def batches_of(start, stop, shift=1, seed=7, index=0, count=1, workers=0):
    source = sampler(range(start, stop), seed=seed, index=index, count=count)
    transform = make_transform("shift", None, shift, 1.0, False, 1.0, 0.0)
    return [*train_batches(NUMBERED, source, transform, seed, workers)]


def assert_same_batches(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_batches_hold_the_samplers_images_with_their_labels():
    found = batches_of(3, 9)
    assert len(found) == 6
    for number, batch in enumerate(found, 3):
        assert batch.images.shape == (P * K, SIDE, SIDE, 1)
        assert batch.images.dtype == np.uint8
        images = batch.images.max(axis=(1, 2, 3)).astype(int) - 1
        np.testing.assert_array_equal(images, sampler(range(1)).batch(number))
        np.testing.assert_array_equal(batch.labels, LABELS[images])


def test_batches_are_a_function_of_seed_and_step():
    whole = batches_of(0, 8)
    assert_same_batches(batches_of(0, 8), whole)
    assert_same_batches(batches_of(5, 8), whole[5:])
    other = batches_of(0, 8, seed=8)
    assert any((a.labels != b.labels).any() for a, b in zip(whole, other, strict=True))


def test_batches_of_processes_make_up_the_batches_of_one():
    shares = [batches_of(2, 6, index=i, count=4) for i in range(4)]
    for whole, *parts in zip(batches_of(2, 6), *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)
        np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)


def test_images_are_moved_by_up_to_shift_in_all_directions():
    moves = {
        (dy, dx)
        for batch in batches_of(0, 30)
        for image in batch.images
        for dy, dx in [tuple(np.argwhere(image[..., 0])[0] - 1)]
    }
    assert moves == {(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    for batch in batches_of(0, 2, shift=0):
        images = batch.images.max(axis=(1, 2, 3)).astype(int) - 1
        np.testing.assert_array_equal(batch.images, NUMBERED.images[images])


@pytest.mark.parametrize("workers", [1, 2, pytest.param(4, marks=pytest.mark.long)])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    assert_same_batches(batches_of(2, 9, workers=workers), batches_of(2, 9))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 20])
def test_ordered_batches_hold_all_images_in_order(n, count):
    images = np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None]
    transform = make_transform("shift", None, 0, 1.0, False, 1.0, 0.0)
    shares = [[*ordered_batches(images, transform, 8, 0, i, count)] for i in range(count)]
    assert all(len(share) == -(-n // 8) for share in shares)
    whole = np.concatenate([np.concatenate(parts) for parts in zip(*shares, strict=True)]).ravel()
    assert whole[:n].tolist() == [*range(1, n + 1)]
    assert (whole[n:] == n).all()


def test_classes_that_are_held_out_are_a_share_of_all_and_disjoint():
    rest, held = hold_out(NUMBERED_NAMED, 0.3, seed=1)
    assert len({*held.labels}) == 3
    assert not {*held.labels} & {*rest.labels}
    assert sorted([*rest.labels, *held.labels]) == sorted(LABELS)
    assert {*held.class_names} == {*held.labels}
    for part in (rest, held):
        np.testing.assert_array_equal(part.labels, LABELS[part.images.max(axis=(1, 2, 3)).astype(int) - 1])
    assert {*hold_out(NUMBERED_NAMED, 0.3, seed=2)[1].labels} != {*held.labels}
    for share in (0.01, 0.99):
        with pytest.raises(ValueError, match=r"data\.val_class_fraction"):
            hold_out(NUMBERED_NAMED, share, seed=1)


NUMBERED_NAMED = NUMBERED._replace(class_names={10 * n: str(n) for n in range(len(SIZES))})
