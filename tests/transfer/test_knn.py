"""k-nearest-neighbor classification against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from pddm_jax.transfer.knn import knn_classes
from tests.helpers.embeddings import digits, rows, some_labels


@pytest.mark.parametrize("data", ["random", "digits"])
@pytest.mark.parametrize("k", [1, 4, 7])
def test_neighbour_classes_are_those_of_scikit_learn(data, k):
    known, labels, queries, _ = digits() if data == "digits" else (rows(40), some_labels(41), rows(42), 0)
    theirs = KNeighborsClassifier(k, algorithm="brute").fit(known.astype(np.float64), labels)
    found = knn_classes(queries, known, labels, k)
    np.testing.assert_array_equal(found, theirs.predict(queries.astype(np.float64)))


def test_neighbours_by_any_score():
    """By the gallery's first coordinate, whatever the query."""
    gallery, labels = rows(43), some_labels(44)
    score = jax.tree_util.Partial(lambda q, g: jnp.broadcast_to(g[:, 0], (len(q), len(g))))
    best = labels[np.argsort(-gallery[:, 0])[:5]].tolist()
    expected = min(best, key=lambda label: (-best.count(label), label))
    assert knn_classes(rows(45, 4), gallery, labels, 5, score).tolist() == [expected] * 4


def test_neighbours_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="gallery_labels"):
        knn_classes(rows(46), rows(47), some_labels(48)[1:])
    with pytest.raises(ValueError, match=r"\bgallery\b"):
        knn_classes(rows(46), rows(47)[:, :2], some_labels(48))
    with pytest.raises(ValueError, match=r"\bk\b"):
        knn_classes(rows(46), rows(47), some_labels(48), 301)
