"""Principal component analysis (PCA) of embeddings, for a plot in two dimensions."""

import numpy as np
from jaxtyping import Float, Float32


def project(
    embeddings: Float32[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " 2"]]:
    """The first two principal components of the embeddings, and their shares of the variance."""
    centered = embeddings - embeddings.mean(axis=0, dtype=np.float64)
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    points = np.zeros((len(embeddings), 2))
    points[:, : len(directions[:2])] = centered @ directions[:2].T
    shares = np.zeros(2)
    variance = singular**2
    shares[: len(variance[:2])] = variance[:2] / max(variance.sum(), np.finfo(float).tiny)
    return points, shares
