"""Frozen embeddings for tests of transfer: random ones, real ones, and a zero-shot problem."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pddm_jax.transfer import zero_shot

EXACT = 1e-6
CLASSES = np.array([-5, 0, 3, 8, 9, 2**40])


def rows(seed, n=300, d=6):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def some_labels(seed, n=300):
    return np.random.default_rng(seed).choice(CLASSES, n, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])


def digits():
    """Real features: half of scikit-learn's digits to learn from, the others to name."""
    x, labels = load_digits(return_X_y=True)
    x = x[:, x[::2].std(axis=0) > 0]
    return x[::2].astype(np.float32), labels[::2], x[1::2].astype(np.float32), labels[1::2]


N, WIDTH, CLASS_COUNT, ATTRIBUTES = 40, 5, 9, 7
NOT_SEEN = 4  # a class that has a description and no image
ARGUMENTS = {
    "conse": {"top": 3, "temperature": 0.5},
    "ridge": {"weight": 0.1},
    "ranking": {"margin": 0.1, "learning_rate": 0.05, "steps": 3, "seed": 0},
}
each_method = pytest.mark.parametrize("method", ARGUMENTS)


def problem(seed=0):
    """Embeddings, the rows of their classes, descriptions of any length."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.setdiff1d(np.arange(CLASS_COUNT), NOT_SEEN), N)
    rows[: CLASS_COUNT - 1] = np.setdiff1d(np.arange(CLASS_COUNT), NOT_SEEN)
    descriptions = rng.normal(size=(CLASS_COUNT, ATTRIBUTES)) * rng.uniform(0.1, 9, (CLASS_COUNT, 1))
    embeddings = rng.normal(size=(CLASS_COUNT, WIDTH))[rows] + rng.normal(size=(N, WIDTH))
    return embeddings.astype(np.float32), rows, descriptions.astype(np.float32)


def made(method, *data, **changed):
    return getattr(zero_shot, method)(*(data or problem()), **ARGUMENTS[method] | changed)
