"""Batches for training, read ahead by Grain; the random numbers of an image are keyed by its place."""

from collections.abc import Iterator

import grain
import numpy as np
from jaxtyping import UInt8

from pddm_jax.data.images import Images
from pddm_jax.data.sampler import PKSampler
from pddm_jax.data.streams import IMAGE, stream
from pddm_jax.types import Batch


def shifted(image: UInt8[np.ndarray, "h w c"], dy: int, dx: int) -> UInt8[np.ndarray, "h w c"]:
    """The image moved down by dy and right by dx; what comes in is black."""
    moved = np.zeros_like(image)
    height, width = image.shape[:2]
    inner = image[max(-dy, 0) : max(height - dy, 0), max(-dx, 0) : max(width - dx, 0)]
    moved[max(dy, 0) :, max(dx, 0) :][: inner.shape[0], : inner.shape[1]] = inner
    return moved


def train_batches(data: Images, sampler: PKSampler, shift: int, seed: int) -> Iterator[Batch]:
    """The batches of the sampler, each image moved by up to `shift` pixels in x and y."""

    def augment(reference: tuple[int, int]) -> Batch:
        index, place = reference
        dy, dx = stream(seed, IMAGE, place).integers(-shift, shift, size=2, endpoint=True).tolist()
        return Batch(shifted(data.images[index], dy, dx), data.labels[index])

    return iter(
        grain.MapDataset.source(sampler)
        .map(augment)
        .batch(sampler.local_size)
        .to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8))
    )
