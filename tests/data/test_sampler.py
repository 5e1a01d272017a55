"""The P x K sampler."""

import numpy as np
import pytest

from pddm_jax.data import (
    PKSampler,
)

P, K = 5, 4
SIZES = [1, 2, 3, 4, 5, 6, 9, 12, 1, 7]  # of classes 0, 10, 20, ...
LABELS = np.random.default_rng(3).permutation(np.repeat(10 * np.arange(len(SIZES)), SIZES))


def sampler(batches, seed=7, index=0, count=1, labels=LABELS, p=P, k=K):
    return PKSampler(labels, p, k, batches, seed, index, count)


def references(source):
    return [source[slot] for slot in range(len(source))]


@pytest.mark.parametrize("number", [*range(40), 10**9])
def test_a_batch_has_p_classes_of_k_images(number):
    batch = sampler(range(number, number + 1)).batch(number).reshape(P, K)
    classes = LABELS[batch]
    assert (classes == classes[:, :1]).all()
    assert len({*classes[:, 0]}) == P
    for label, images in zip(classes[:, 0], batch, strict=True):
        size = SIZES[label // 10]
        assert size >= 2
        if size >= K:
            assert len({*images}) == K


def test_a_small_class_is_drawn_with_replacement():
    drawn = [images for n in range(60) for images in sampler(range(1)).batch(n).reshape(P, K)]
    both = [{*images.tolist()} for images in drawn if LABELS[images[0]] == 10]
    assert {len(images) for images in both} == {1, 2}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_shares_of_processes_make_up_the_batch(count):
    batches = range(2, 9)
    shares = [references(sampler(batches, index=i, count=count)) for i in range(count)]
    local = P * K // count
    found = [r for n in range(len(batches)) for share in shares for r in share[n * local : (n + 1) * local]]
    images = np.concatenate([sampler(batches).batch(n) for n in batches])
    assert found == [*zip(images.tolist(), range(2 * P * K, 9 * P * K), strict=True)]


def test_the_stream_does_not_depend_on_its_start_or_on_the_order_of_access():
    whole = sampler(range(9))
    expected = references(whole)
    assert references(sampler(range(4, 9))) == expected[4 * P * K :]
    assert references(sampler(range(9)).since(4)) == expected[4 * P * K :]
    order = np.random.default_rng(0).permutation(len(whole))
    assert [whole[slot] for slot in order] == [expected[slot] for slot in order]


def test_seeds_and_batches_differ():
    batches = [tuple(sampler(range(1), seed=seed).batch(n)) for seed in range(5) for n in range(5)]
    assert len({*batches}) == 25
    assert sampler(range(1), seed=1).batch(3).tolist() == sampler(range(1), seed=1).batch(3).tolist()


def test_classes_and_images_are_drawn_uniformly():
    labels = np.repeat(np.arange(20), 10)
    draws = np.concatenate([sampler(range(1), labels=labels).batch(n).reshape(P, K) for n in range(2000)])
    classes = np.bincount(labels[draws[:, 0]], minlength=20)
    assert np.abs(classes - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)
    images = np.bincount(draws.ravel(), minlength=200)
    assert np.abs(images - 200).max() < 5 * np.sqrt(200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1}, "at least 2, got 1 and 4"),
        ({"k": 1}, "at least 2, got 5 and 1"),
        ({"p": 9}, "classes_per_batch is 9, but of the classes for training only 8"),
        ({"count": 3}, "20 images cannot be divided evenly among 3 processes"),
        ({"labels": np.arange(30)}, "only 0 have"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(range(1), **arguments)
