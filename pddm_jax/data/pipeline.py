"""Batches for training and for test, read ahead by Grain; an image's chances are keyed by its place."""

from collections.abc import Generator
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from pddm_jax.cores import cores
from pddm_jax.data.images import Images, ImageSequence
from pddm_jax.data.sampler import PKSampler
from pddm_jax.data.streams import IMAGE, stream
from pddm_jax.data.transforms import Transform
from pddm_jax.types import Batch


def train_batches(
    data: Images, sampler: PKSampler, transform: Transform, seed: int, workers: int = 0
) -> Generator[Batch]:
    """The batches of the sampler, each image transformed by random numbers keyed by its place.

    Args:
        data: what the sampler's indices stand for.
        sampler: the references, batch after batch.
        transform: see `make_transform`.
        seed: of the random numbers.
        workers: processes that read; 0 = threads of this process. The batches are the same.
    """

    def read(reference: tuple[int, int]) -> Batch:
        index, place = reference
        image = transform.train(data.images[index], stream(seed, IMAGE, place))
        return Batch(image, data.labels[index])

    return _read_ahead(grain.MapDataset.source(sampler).map(read).batch(sampler.local_size), workers)


def ordered_batches(
    images: ImageSequence,
    transform: Transform,
    size: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[UInt8[np.ndarray, "b h w c"]]:
    """All images in order, in batches of `size`; the last batch is filled up with the last image.

    Each process is given its own contiguous share of each batch, and reads no more than that.
    """
    share = size // process_count
    batches = -(-len(images) // size)

    def read(slot: int) -> UInt8[np.ndarray, "h w c"]:
        batch, offset = divmod(slot, share)
        index = batch * size + process_index * share + offset
        return transform.test(images[min(index, len(images) - 1)])

    return _read_ahead(grain.MapDataset.range(batches * share).map(read).batch(share), workers)


def _read_ahead(batches: grain.MapDataset, workers: int) -> Generator[Any]:
    threads = 1 if workers else cores()
    ahead = batches.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=max(8, 2 * threads)))
    if workers:
        if not flags.FLAGS.is_parsed():  # outside of an absl app; Grain's processes ask flags of their own
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2))
    reader = iter(ahead)
    try:
        yield from reader
    finally:
        reader.close()
