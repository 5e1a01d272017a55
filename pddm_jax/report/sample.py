"""Labelled images with their embeddings, and samples of them, drawn by seed."""

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

    def take(self, indices: Int[np.ndarray, " m"]) -> "Embedded":
        """The images at these indices."""
        return Embedded(subset(self.images, indices), self.embeddings[indices])


def sample_classes(labels: Int[np.ndarray, " n"], most: int, seed: int) -> Int[np.ndarray, " m"]:
    """The indices, ascending, of at most `most` images, of classes drawn by seed.

    If there are more images, at most `most` / 20 are drawn of a class (`most` / classes, if there are fewer
    than 20), so that a sample has many classes, and images of the same class.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    order = stream(seed, REPORT).permutation(len(labels))
    classes, codes = np.unique(labels[order], return_inverse=True)
    each = min(max(2, most // min(len(classes), 20)), most)
    # Of each image, in the order drawn: how many images of its class come before it.
    by_class = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[by_class], np.arange(len(classes)))
    rank = np.empty(len(codes), int)
    rank[by_class] = np.arange(len(codes)) - starts[codes[by_class]]
    kept = order[rank < each]
    _, counts = np.unique(labels[kept], return_counts=True)
    drawn = stream(seed, REPORT, 1).permutation(len(classes))
    fitting = drawn[np.cumsum(counts[drawn]) <= most]
    return np.sort(kept[np.isin(labels[kept], classes[fitting])])


def sampled(data: Embedded, most: int, seed: int) -> Embedded:
    """The images of `sample_classes`."""
    return data.take(sample_classes(data.images.labels, most, seed))
