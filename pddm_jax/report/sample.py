"""Labelled images with their embeddings, and samples of them: whole classes, drawn by seed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from pddm_jax.data import Images
from pddm_jax.data.images import subset
from pddm_jax.data.streams import REPORT, stream


class Embedded(NamedTuple):
    """Labelled images and their embeddings."""

    images: Images
    embeddings: Float32[np.ndarray, "n d"]

    def name(self, index: int) -> str:
        """The name of the class of an image."""
        return self.images.class_names[int(self.images.labels[index])]


def whole_classes(labels: Int[np.ndarray, " n"], most: int, seed: int) -> Int[np.ndarray, " m"]:
    """The indices, ascending, of all images of classes drawn by seed: at most `most` images.

    If the first class has more images, its first `most` images are taken.
    """
    classes, counts = np.unique(labels, return_counts=True)
    order = stream(seed, REPORT).permutation(len(classes))
    fitting = max(int((np.cumsum(counts[order]) <= most).sum()), 1)
    return np.flatnonzero(np.isin(labels, classes[order[:fitting]]))[:most]


def sampled(data: Embedded, most: int, seed: int) -> Embedded:
    """A sample of `whole_classes`."""
    chosen = whole_classes(data.images.labels, most, seed)
    return Embedded(subset(data.images, chosen), data.embeddings[chosen])
