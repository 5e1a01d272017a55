"""The linear probe against scikit-learn's logistic regression."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pddm_jax.transfer import linear_probe
from tests.helpers.embeddings import digits, rows, some_labels


@pytest.fixture(scope="module")
def probe():
    """On the digits, in blocks that do not divide them, and scikit-learn's of the same penalty."""
    known, labels, queries, _ = digits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probe, "BLOCK", 200)
        ours = linear_probe.fit(known / 16, 3 * labels - 5, weight_decay=0.01, steps=400)
    penalty = LogisticRegression(C=1 / (0.01 * len(known)), tol=1e-8, max_iter=2000)
    return ours, penalty.fit(known.astype(np.float64) / 16, 3 * labels - 5), queries / 16


def test_the_linear_probe_is_the_minimum_that_scikit_learn_finds(probe):
    ours, theirs, _ = probe
    assert ours.classes.tolist() == theirs.classes_.tolist()
    np.testing.assert_allclose(ours.kernel.T, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
    centred = theirs.intercept_ - theirs.intercept_.mean()  # which the loss leaves open
    np.testing.assert_allclose(ours.bias - np.mean(ours.bias), centred, atol=2e-3 * np.abs(centred).max())


def test_the_linear_probe_ranks_as_scikit_learn_does(probe):
    ours, theirs, queries = probe
    expected = np.argsort(-theirs.decision_function(queries.astype(np.float64)), axis=1)[:, :3]
    same = ours.top_classes(queries, 3) == ours.classes[expected]
    assert same.mean() > 0.999  # a near tie may fall either way
    assert same[:, 0].all()


@pytest.mark.parametrize(
    ("labels", "fields", "words"),
    [
        (np.zeros(299, int), {}, r"labels.*\[300\].*299"),
        (some_labels(50), {"weight_decay": 0.0}, "weight_decay.*0.0"),
        (some_labels(50), {"weight_decay": np.inf}, "weight_decay.*inf"),
        (some_labels(50), {"steps": 0}, "steps.*0"),
    ],
)
def test_the_linear_probe_refuses_what_does_not_fit(labels, fields, words):
    with pytest.raises(ValueError, match=words):
        linear_probe.fit(rows(51), labels, **{"weight_decay": 0.1, "steps": 1} | fields)
