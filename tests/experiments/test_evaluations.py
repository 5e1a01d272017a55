"""Evaluations of random embeddings, against scikit-learn."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from experiments.configs import imagenet2010
from experiments.evaluations import transfer
from experiments.evaluations.base import EvaluationContext
from pddm_jax import PDDM
from pddm_jax.data import ClosedSet, Images

CLASSES, EACH, WIDTH = 9, 8, 6


def images_of(rng):
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), EACH)
    pixels = rng.integers(0, 256, (len(labels), 4, 4, 1), dtype=np.uint8)
    return Images(pixels, labels, {label: f"class {label}" for label in range(CLASSES)})


def embeddings_of(images):
    """Unit vectors that depend on class and image."""
    rng = np.random.default_rng(int(images.images.sum()))
    centers = np.random.default_rng(7).standard_normal((CLASSES, WIDTH))
    x = centers[images.labels] + rng.standard_normal((len(images.labels), WIDTH))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def measured():
    rng = np.random.default_rng(0)
    closed = ClosedSet(images_of(rng), images_of(rng), "made for a test")
    fields = imagenet2010.get_config("glyphs").to_dict()
    fields["transfer"] |= {"ways": (CLASSES,), "neighbours": (3,), "probe_steps": 5}
    config = FrozenConfigDict(fields)
    x = np.zeros((1, WIDTH), np.float32)
    unit = PDDM(4, 4).init(jax.random.key(0), x, x)["params"]
    prepared = transfer.prepare(config, closed)
    context = EvaluationContext(
        config,
        None,
        closed,
        closed.train,
        None,
        SimpleNamespace(params={"unit": unit}),
        embeddings_of,
        lambda: embeddings_of(closed.test),
        prepared,
    )
    return closed, transfer.measure(context)


def test_accuracies_of_transfer_are_those_of_scikit_learn(measured):
    closed, (protocol, measures, _) = measured
    found = measures["accuracy"][str(CLASSES)]
    fit = embeddings_of(closed.train).astype(np.float64), closed.train.labels
    x, y = embeddings_of(closed.test), closed.test.labels
    right = NearestCentroid().fit(*fit).predict(x) == y
    assert 1.5 / CLASSES < right.mean() < 1
    assert found["means"]["flat"]["1"] == pytest.approx(right.mean())
    per_class = [right[y == label].mean() for label in range(CLASSES)]
    assert found["means"]["per_class"]["mean"] == pytest.approx(np.mean(per_class))
    assert found["means"]["per_class"]["quartiles"][2] == pytest.approx(np.median(per_class))
    votes = KNeighborsClassifier(3, algorithm="brute").fit(*fit).predict(x) == y
    assert found["3 neighbours"]["flat"]["1"] == pytest.approx(votes.mean(), abs=0.1)  # other ties
    assert {"means", "means, PDDM score", "3 neighbours", "linear probe"} == {*found}
    assert protocol["known_images"] == protocol["classified_images"] == CLASSES * EACH


def test_the_table_and_the_columns_of_transfer_show_them(measured):
    _, (protocol, measures, _) = measured
    run = {"objective": {"name": "pddm"}, "data": "glyphs", "seed": 0}
    results = {"experiment": "x", "protocol": run | protocol, "steps": 1, "seconds": 2.0, **measures}
    found = measures["accuracy"][str(CLASSES)]
    lines = transfer.table(results).splitlines()
    for name, of in found.items():
        line = next(line for line in lines if line.strip().startswith(f"{name}  "))
        assert f"{100 * of['flat']['1']:.1f}" in line.split()
    columns = transfer.columns(results)
    assert columns[f"top-1 of {CLASSES}"] == found["means"]["flat"]["1"]
    assert columns["top-1, PDDM score"] == found["means, PDDM score"]["flat"]["1"]
