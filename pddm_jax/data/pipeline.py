"""Batches for training and for test, read ahead by Grain; random numbers are keyed by an image's place."""

from collections.abc import Callable, Generator
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import UInt8

from pddm_jax.data.images import Images, ImageSequence
from pddm_jax.data.sampler import PKSampler
from pddm_jax.data.streams import IMAGE, stream
from pddm_jax.data.transforms import Transform
from pddm_jax.system.processes import cores, start_tracker
from pddm_jax.types import Batch


def train_batches(
    data: Images, sampler: PKSampler, transform: Transform, seed: int, workers: int = 0
) -> Generator[Batch]:
    """The batches of the sampler, each image transformed by random numbers keyed by its place.

    Args:
        data: the images that the sampler's indices refer to.
        sampler: of the indices, batch by batch.
        transform: see `make_transform`.
        seed: of the random numbers.
        workers: processes that read; 0 = threads of this process. The batches are the same.
    """
    size = sampler.local_size

    def read(number: int) -> Batch:
        index, places = zip(
            *(sampler[slot] for slot in range(number * size, (number + 1) * size)), strict=True
        )
        rngs = (stream(seed, IMAGE, place) for place in places)
        images = [transform.train(data.images[i], rng) for i, rng in zip(index, rngs, strict=True)]
        return Batch(np.stack(images), data.labels[list(index)])

    return _read_ahead(read, len(sampler) // size, workers, data.images)


def ordered_batches(
    images: ImageSequence,
    transform: Transform,
    size: int,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[UInt8[np.ndarray, "b h w c"]]:
    """All images in order, in batches of `size`; the last batch is padded with the last image.

    Each process reads only its own contiguous share of each batch.
    """
    share = size // process_count
    batches = -(-len(images) // size)

    def read(batch: int) -> UInt8[np.ndarray, "b h w c"]:
        first = batch * size + process_index * share
        index = np.minimum(np.arange(first, first + share), len(images) - 1)
        return np.stack([transform.test(images[i]) for i in index.tolist()])

    return _read_ahead(read, batches, workers, images)


def _read_ahead(
    read: Callable[[int], Any], batches: int, workers: int, images: ImageSequence
) -> Generator[Any]:
    # Grain's elements are batches: its time for an element exceeds the transform of an image in memory.
    # That holds the interpreter, so a second thread does not help; decoding releases it.
    threads = 1 if workers or isinstance(images, np.ndarray) else cores()
    options = grain.ReadOptions(threads, prefetch_buffer_size=max(8, 2 * threads))
    ahead = grain.MapDataset.range(batches).map(read).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # outside an absl app; Grain's processes read absl flags
            flags.FLAGS.mark_as_parsed()
        start_tracker()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=2))
    reader = iter(ahead)
    try:
        yield from reader
    finally:
        reader.close()
