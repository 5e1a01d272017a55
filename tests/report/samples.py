"""Made images with embeddings, and a PDDM unit, for tests of reports."""

import numpy as np

from pddm_jax.data import Images
from pddm_jax.report.sample import Embedded
from tests.helpers import oracles
from tests.helpers.units import random_unit


class Listed:
    """Images of a list, which may differ in size."""

    def __init__(self, images):
        self.images = [*images]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]

    def take(self, indices):
        return Listed(self.images[n] for n in indices)


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def embedded(x, labels, images=None, names=None):
    """Images of noise, unless they are given."""
    labels = np.asarray(labels)
    names = names or {label: f"class {label}" for label in set(labels.tolist())}
    images = noise(0, len(labels), 6, 6, 3) if images is None else images
    return Embedded(Images(images, labels, names), np.asarray(x, np.float32))


def normal(seed, n, d=4):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def grid(seed, n, d=2):
    """Points of a small grid: distances tie, and some are 0."""
    return np.random.default_rng(seed).integers(-1, 2, (n, d)).astype(np.float32)


def unit(width=4):
    """The parameters of a PDDM unit, and its score by loops."""
    params = random_unit(width)
    plain = oracles.as_python(params)
    return params, lambda x, y: oracles.pddm_score(plain, x.tolist(), y.tolist())


def distances_from(x, row):
    return [oracles.distance(x[row].tolist(), y) for y in x.tolist()]


def nearest(x, row):
    """All other rows, by distance; ties to the lowest index."""
    distances = distances_from(x, row)
    return sorted((n for n in range(len(x)) if n != row), key=lambda n: (distances[n], n))
