"""Zero-shot metrics: the rank of the right class, flat Hit@K, and the harmonic mean of seen and unseen."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pddm_jax.checks import as_finite_matrix
from pddm_jax.numerics import l2_normalize
from pddm_jax.transfer.zero_shot import SemanticMap, checked_rows
from pddm_jax.types import AnyArray

KS = (1, 2, 5, 10, 20)
BLOCK = 256
"""Images scored at a time."""


def ranks(
    semantic_map: SemanticMap,
    embeddings: Float[AnyArray, "n d"],
    labels: Int[AnyArray, " n"],
    descriptions: Float[AnyArray, "c a"],
) -> Int[np.ndarray, " n"]:
    """Rank from 0 of each image's class by the cosine of `semantic_map(embedding)` and its description.

    Ties go to the lower row. The matrix [n, c] of cosines is never held.

    Args:
        semantic_map: from embeddings to descriptions, a pytree; see `zero_shot`.
        embeddings: [n, d].
        labels: [n], for each image the row of its class in `descriptions`.
        descriptions: [c, a], of all candidate classes.

    Raises:
        ValueError: a shape does not fit, a label is not a row, or a number is not finite.
    """
    x = as_finite_matrix("embeddings", embeddings)
    s = as_finite_matrix("descriptions", descriptions)
    return np.asarray(_ranks(semantic_map, x, checked_rows("labels", labels, len(x), len(s)), s))


@jax.jit
def _ranks(
    semantic_map: SemanticMap,
    x: Float[Array, "n d"],
    rows: Int[Array, " n"],
    descriptions: Float[Array, "c a"],
) -> Int[Array, " n"]:
    def rank(image: tuple[Float[Array, " d"], Int[Array, ""]]) -> Int[Array, ""]:
        (scores,), row = cosines(semantic_map, image[0][None], descriptions), image[1]
        before = (scores > scores[row]) | ((scores == scores[row]) & (jnp.arange(len(scores)) < row))
        return jnp.sum(before)

    return jax.lax.map(rank, (x, rows), batch_size=BLOCK)


def top_classes(
    semantic_map: SemanticMap,
    embeddings: Float[AnyArray, "n d"],
    descriptions: Float[AnyArray, "c a"],
    k: int,
) -> Int[np.ndarray, "n k"]:
    """The rows of the k best classes of each image, in the order of `ranks`; all if there are fewer.

    The matrix [n, c] is held in memory: for a few images.

    Raises:
        ValueError: as `ranks`.
    """
    x = as_finite_matrix("embeddings", embeddings)
    s = as_finite_matrix("descriptions", descriptions)
    return np.asarray(jax.lax.top_k(cosines(semantic_map, x, s), min(k, len(s)))[1])


def cosines(
    semantic_map: SemanticMap, embeddings: Float[Array, "n d"], descriptions: Float[Array, "c a"]
) -> Float[Array, "n c"]:
    """The cosine of each mapped embedding with each description; 0 where either is 0."""
    return l2_normalize(semantic_map(embeddings)) @ l2_normalize(descriptions).T


def hit_at_k(
    ranks: Int[np.ndarray, " n"], ks: Sequence[int] = KS, classes: Int[np.ndarray, " n"] | None = None
) -> dict[int, float]:
    """Flat Hit@K: the share of images whose class is among the first K.

    Args:
        ranks: [n], of the right class, from 0.
        ks: the depths K.
        classes: [n], class of each image; if given, the result is the mean over classes of their shares.

    Raises:
        ValueError: there is no image.

    Source: Frome et al., "DeViSE", NIPS 2013, section 4; by class: Xian, Schiele, Akata, "Zero-Shot
    Learning: The Good, the Bad and the Ugly", CVPR 2017, section 4.
    """
    if not len(ranks):
        raise ValueError("ranks must hold at least one image: Hit@K of no image is not defined")
    codes = np.zeros(len(ranks), int) if classes is None else np.unique(classes, return_inverse=True)[1]
    return {k: float(np.mean(np.bincount(codes, ranks < k) / np.bincount(codes))) for k in ks}


def harmonic_mean(a: float, b: float) -> float:
    """2 a b / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0
