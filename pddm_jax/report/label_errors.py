"""Likely label errors by disagreement with nearest neighbors; duplicates by correlation of pixels."""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from pddm_jax.evaluate.metrics import nearest_others
from pddm_jax.report.sample import Embedded

NEIGHBORS = 5
"""Neighbors that vote for the class of an image."""

CANDIDATES = 200
"""Nearest pairs of different classes whose pixels are compared."""

SIDE, LEAST_CORRELATION = 32, 0.98
"""Grey images of SIDE x SIDE pixels that correlate so are likely duplicates."""


def label_errors(data: Embedded) -> list[dict[str, Any]]:
    """Images whose neighbors agree on another class, most suspicious first.

    At least 3 of the 5 nearest other images have one other class, and none has the class of the image.
    An image is more suspicious, the farther the nearest image of its own class is, compared with the
    nearest image of the other class. An image that is alone in its class is not judged.

    Returns:
        For each image its index ("image"), the label of the other class ("suggested"), the number of
        "votes" for it and the index of its "nearest" image in that class. Of 5 images or fewer: nothing.
    """
    labels, x = data.images.labels, data.embeddings.astype(np.float64)
    if len(x) <= NEIGHBORS:
        return []
    neighbors = nearest_others(data.embeddings, np.arange(len(x)), NEIGHBORS)
    found = []
    for image, row in enumerate(neighbors):
        classes, votes = np.unique(labels[row], return_counts=True)
        if 2 * votes.max() <= NEIGHBORS or labels[image] in classes:
            continue
        own = np.flatnonzero(labels == labels[image])
        own = own[own != image]
        if not len(own):
            continue
        suggested = classes[votes.argmax()]
        nearest = int(row[labels[row] == suggested][0])
        margin = np.linalg.norm(x[own] - x[image], axis=1).min() - np.linalg.norm(x[nearest] - x[image])
        entry = {"image": image, "suggested": int(suggested), "votes": int(votes.max()), "nearest": nearest}
        found.append((margin, entry))
    return [entry for _, entry in sorted(found, key=lambda pair: -pair[0])]


def duplicates(data: Embedded) -> list[dict[str, Any]]:
    """Pairs of images of different classes that look alike, most alike first.

    Only the nearest pairs by distance of embeddings are compared: by the Pearson correlation of their grey
    values, scaled to 32 x 32 pixels. Images of one color are not compared.

    Returns:
        For each pair of classes the two images that look most alike: the indices "first" and "second", and
        the "correlation".
    """
    first, second = _nearest_of_other_classes(data.embeddings, data.images.labels)
    grey = {int(n): _standardized(data.images.images[int(n)]) for n in {*first, *second}}
    labels = data.images.labels.tolist()
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        correlation = float((grey[a] * grey[b]).sum())
        classes = tuple(sorted((labels[a], labels[b])))
        if correlation >= max(LEAST_CORRELATION, found.get(classes, {"correlation": 0})["correlation"]):
            found[classes] = {"first": a, "second": b, "correlation": min(correlation, 1.0)}
    return sorted(found.values(), key=lambda pair: -pair["correlation"])


def _nearest_of_other_classes(
    embeddings: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """The nearest pairs of different classes among the nearest neighbors of all images: i < j."""
    count = min(NEIGHBORS, len(embeddings) - 1)
    if not count:
        return np.zeros(0, int), np.zeros(0, int)
    neighbors = nearest_others(embeddings, np.arange(len(embeddings)), count)
    pairs = np.stack([np.repeat(np.arange(len(embeddings)), count), neighbors.ravel()], axis=1)
    pairs = np.unique(np.sort(pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]], axis=1), axis=0)
    x = embeddings.astype(np.float64)
    distances = np.linalg.norm(x[pairs[:, 0]] - x[pairs[:, 1]], axis=1)
    first, second = pairs[np.argsort(distances, kind="stable")[:CANDIDATES]].T
    return first, second


def _standardized(image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, "s s"]:
    """The grey values, less their mean, with norm 1; 0 if all are equal."""
    grey = image.squeeze(-1) if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1.0)
