"""Samples of images, of classes drawn by seed."""

from collections import Counter

import numpy as np
import pytest

from pddm_jax.report.sample import sample_classes, sampled
from tests.report.samples import Listed, embedded, noise, normal

LABELS = np.random.default_rng(0).choice([-5, 0, 3, 8, 9, 2**40], 200, p=[0.4, 0.25, 0.15, 0.1, 0.07, 0.03])


@pytest.mark.parametrize("most", [1, 7, 30, 90, 150, 199])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_many_classes_and_several_images_of_each(most, seed):
    chosen = sample_classes(LABELS, most, seed).tolist()
    assert chosen == sorted(set(chosen))
    assert 0 < len(chosen) <= most
    counts, taken = Counter(LABELS.tolist()), Counter(LABELS[chosen].tolist())
    each = min(max(2, most // 6), most)
    assert all(taken[label] == min(counts[label], each) for label in taken)
    if most >= 12:
        assert {*taken} == {*counts}
    else:
        assert all(len(chosen) + min(counts[x], each) > most for x in counts if x not in taken)


def test_classes_larger_than_the_sample():
    labels = np.repeat(np.arange(5), 6000)
    assert Counter(labels[sample_classes(labels, 1000, 0)].tolist()) == dict.fromkeys(range(5), 200)
    labels = np.repeat(np.arange(100), 6000)
    assert Counter(Counter(labels[sample_classes(labels, 1000, 0)].tolist()).values()) == {50: 20}


def test_a_sample_that_holds_all():
    for most in (200, 201):
        assert sample_classes(LABELS, most, 4).tolist() == list(range(200))


def test_the_seed_determines_the_classes():
    samples = [sample_classes(LABELS, 60, seed).tolist() for seed in range(12)]
    assert samples == [sample_classes(LABELS.copy(), 60, seed).tolist() for seed in range(12)]
    assert len({tuple(sample) for sample in samples}) > 3


def test_each_class_is_drawn_as_often_as_the_others():
    labels = np.arange(30) % 6
    drawn = Counter(
        int(label) for seed in range(300) for label in {*labels[sample_classes(labels, 10, seed)]}
    )
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5]
    assert sum(drawn.values()) == 1500  # 10 images are two of each of five classes
    assert all(220 < count < 280 for count in drawn.values())  # 250, with a standard deviation of 6


@pytest.mark.parametrize(
    ("labels", "most", "expected"),
    [
        ([7], 1, [0]),
        ([7], 5, [0]),
        ([7] * 9, 9, list(range(9))),
    ],
)
def test_one_class(labels, most, expected):
    assert sample_classes(np.array(labels), most, 3).tolist() == expected


def test_one_class_of_which_a_part_is_drawn():
    assert len(sample_classes(np.array([7, 7]), 1, 3)) == 1
    assert len({*sample_classes(np.full(9, 7), 4, 3).tolist()}) == 4


def test_classes_of_one_image():
    assert len(sample_classes(np.arange(50), 20, 0)) == 20
    assert len(sample_classes(np.arange(2), 1, 0)) == 1


@pytest.mark.parametrize("lazy", [False, True])
def test_a_sample_of_images_with_their_embeddings(lazy):
    x, images = normal(0, 200), noise(1, 200, 3, 3, 3)
    data = embedded(x, LABELS, Listed(images) if lazy else images)
    sample, chosen = sampled(data, 80, 5), sample_classes(LABELS, 80, 5)
    assert len(sample.images.images) == len(sample.images.labels) == len(sample.embeddings) == len(chosen)
    for row, n in enumerate(chosen.tolist()):
        assert np.array_equal(sample.images.images[row], images[n])
        assert np.array_equal(sample.embeddings[row], x[n])
        assert sample.images.labels[row] == LABELS[n]
        assert sample.name(row) == data.name(n) == f"class {LABELS[n]}"
    assert {*sample.images.class_names} == {*LABELS[chosen].tolist()}
