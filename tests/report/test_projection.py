"""The projection against scikit-learn's PCA, up to the signs of the components."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pddm_jax.report.projection import project


def rows(seed, n, d):
    """Correlated features of different deviations, far from 0."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, d)) * 0.7 ** np.arange(d) @ rng.normal(size=(d, d))
    return (mixed + rng.normal(size=d) * 50).astype(np.float32)


@pytest.mark.parametrize(
    ("n", "d"), [(50, 7), (7, 50), (300, 2), (40, 40), (3, 2), (2, 2), (2, 9), (500, 64)]
)
def test_against_scikit_learn(n, d):
    x = rows(n + d, n, d)
    points, shares = project(x)
    assert points.shape == (n, 2)
    pca = PCA(2, svd_solver="full").fit(x.astype(np.float64))
    expected = pca.transform(x.astype(np.float64))
    scale = np.abs(expected).max()
    for component in range(2):
        found, wanted = points[:, component], expected[:, component]
        sign = np.sign(found @ wanted) or 1
        np.testing.assert_allclose(sign * found, wanted, atol=1e-9 * scale)
    np.testing.assert_allclose(shares, pca.explained_variance_ratio_, atol=1e-9)


def test_shares_are_of_the_whole_variance():
    x = rows(0, 100, 12)
    points, shares = project(x)
    whole = x.astype(np.float64).var(axis=0).sum()
    np.testing.assert_allclose(points.var(axis=0) / whole, shares, atol=1e-12)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    assert shares[0] >= shares[1] > 0
    assert shares.sum() < 1


def test_one_feature():
    x = rows(1, 20, 1)
    points, shares = project(x)
    centered = x[:, 0].astype(np.float64) - x.astype(np.float64).mean()
    np.testing.assert_allclose(points[:, 0] * np.sign(points[0, 0] * centered[0]), centered, atol=1e-9)
    assert not points[:, 1].any()
    np.testing.assert_allclose(shares, [1, 0])


@pytest.mark.parametrize("d", [1, 2, 30])
def test_one_image(d):
    points, shares = project(rows(2, 1, d))
    assert points.tolist() == [[0, 0]]
    assert shares.tolist() == [0, 0]


@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 3), (100, 40)])
def test_images_of_one_embedding(n, d):
    points, shares = project(np.repeat(rows(3, 1, d), n, axis=0))
    assert not points.any()
    assert not shares.any()


def test_embeddings_on_a_line():
    position, direction = np.arange(9), np.array([3.0, 0, 4])
    points, shares = project((position[:, None] * direction + 1).astype(np.float32))
    np.testing.assert_allclose(np.abs(points[:, 0]), 5 * np.abs(position - 4), atol=1e-9)
    np.testing.assert_allclose(points[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(shares, [1, 0], atol=1e-12)
