"""Nearest class means and accuracies against scikit-learn and loops."""

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

import pddm_jax
from pddm_jax.transfer.class_means import class_means
from pddm_jax.transfer.classification import nearest_classes, per_class_accuracy, top_k_accuracy
from tests.helpers import oracles
from tests.helpers.embeddings import CLASSES, EXACT, digits, rows, some_labels


@pytest.mark.parametrize("data", ["random", "digits"])
def test_nearest_classes_are_those_of_scikit_learn(data):
    known, labels, queries, _ = digits() if data == "digits" else (rows(30), some_labels(31), rows(32), 0)
    theirs = NearestCentroid().fit(known.astype(np.float64), labels)
    found = nearest_classes(queries, class_means([(known, labels)]), k=3)
    np.testing.assert_array_equal(found[:, 0], theirs.predict(queries.astype(np.float64)))
    centroids, order = theirs.centroids_.tolist(), sorted(set(labels.tolist()))
    for query, row in zip(queries[:40], found, strict=False):
        expected = oracles.ranked(query, centroids)[:3]
        assert row.tolist() == [order[index] for _, index in expected]


def test_nearest_classes_by_pddm_score():
    known, labels, queries = rows(33), some_labels(34), rows(35, 8)
    params = jax.jit(pddm_jax.PDDM(8, 8).init)(jax.random.key(0), known[:1], known[:1])["params"]
    means = class_means([(known, labels)])
    score = jax.tree_util.Partial(pddm_jax.score_matrix, params)
    plain = oracles.as_python(params)
    found = nearest_classes(queries, means, k=len(CLASSES), score_fn=score)
    for query, row in zip(queries, found, strict=True):
        expected = oracles.ranked(query, means.centroids(), lambda a, b: oracles.pddm_score(plain, a, b))
        assert row.tolist() == [CLASSES[index] for _, index in expected]


def test_equal_means_fall_to_the_lowest_class():
    x = np.array([[1.0], [3.0], [2.0], [2.0]], np.float32)
    means = class_means([(x, np.array([7, 7, 4, 9]))])
    assert nearest_classes(np.array([[5.0]], np.float32), means, k=3).tolist() == [[4, 7, 9]]


def test_nearest_classes_refuse_what_does_not_fit():
    means = class_means([(rows(36), some_labels(37))])
    with pytest.raises(ValueError, match=r"\bk\b.*1\.\.6"):
        nearest_classes(rows(38), means, k=7)
    with pytest.raises(ValueError, match="embeddings"):
        nearest_classes(rows(38)[:, :3], means)
    with pytest.raises(ValueError, match=r"embeddings.*finite"):
        nearest_classes(np.full((2, 6), np.nan, np.float32), means)


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_against_the_loops(seed):
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(CLASSES)[:5] for _ in range(60)])
    labels = rng.choice([*CLASSES[:4], 77], 60)  # 77 is no class that is ranked
    accuracy = top_k_accuracy(ranked, labels, (1, 2, 5))
    for k in (1, 2, 5):
        hits = sum(label in row[:k] for row, label in zip(ranked.tolist(), labels.tolist(), strict=True))
        assert accuracy[k] == pytest.approx(hits / 60, abs=EXACT)
    classes, shares = per_class_accuracy(ranked, labels)
    assert classes.tolist() == sorted(set(labels.tolist()))
    for c, share in zip(classes, shares, strict=True):
        right = [row[0] == c for row, label in zip(ranked, labels, strict=True) if label == c]
        assert share == pytest.approx(sum(right) / len(right), abs=EXACT)


@pytest.mark.parametrize(
    ("ranked", "labels", "ks", "words"),
    [
        (np.zeros((3, 2), int), np.zeros(3, int), (1, 5), "ks.*1 to 2"),
        (np.zeros((3, 2), int), np.zeros(3, int), (0,), "ks"),
        (np.zeros((3, 2), int), np.zeros(2, int), (1,), r"labels.*\[3\]"),
        (np.zeros((0, 2), int), np.zeros(0, int), (1,), "ranked"),
        (np.zeros(3, int), np.zeros(3, int), (1,), "ranked"),
    ],
)
def test_accuracies_refuse_what_does_not_fit(ranked, labels, ks, words):
    with pytest.raises(ValueError, match=words):
        top_k_accuracy(ranked, labels, ks)
    if "ks" not in words:
        with pytest.raises(ValueError, match=words):
            per_class_accuracy(ranked, labels)
