"""Batches of P classes x K images, each a pure function of (seed, batch)."""

import copy

import numpy as np
from jaxtyping import Int

from pddm_jax.data.streams import BATCH, stream


class PKSampler:
    """A random-access source of references: slot -> (image index, place in the whole stream).

    Batch b draws P classes without replacement and K images of each (with replacement only where a
    class has fewer), from random numbers keyed by (seed, b): no state, so the stream can start
    anywhere and is the same for any number of processes and workers. Each process sees its own
    contiguous share of the slots of a batch.

    Raises:
        ValueError: too few classes have two images, or the batch does not divide over the processes.
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " n"],
        classes_per_batch: int,
        images_per_class: int,
        batches: range,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        size = classes_per_batch * images_per_class
        _, starts, counts = np.unique(np.sort(labels), return_index=True, return_counts=True)
        usable = counts >= 2
        if classes_per_batch < 2 or images_per_class < 2:
            raise ValueError(
                "data.classes_per_batch and data.images_per_class must be at least 2, "
                f"got {classes_per_batch} and {images_per_class}"
            )
        if (most := int(usable.sum())) < classes_per_batch:
            lower = f"lower it (--config.data.classes_per_batch={most}), or " if most > 1 else ""
            raise ValueError(
                f"data.classes_per_batch is {classes_per_batch}, but of the classes for training only "
                f"{most} have two images or more: {lower}add classes"
            )
        if size % process_count:
            raise ValueError(
                f"a batch of {size} images cannot be divided evenly among {process_count} processes"
            )
        self._by_class = np.argsort(labels, kind="stable")
        self._starts, self._counts = starts[usable], counts[usable]
        self._shape = classes_per_batch, images_per_class
        self._batches, self._seed = batches, seed
        self.local_size = size // process_count
        self._first = process_index * self.local_size
        self._latest: tuple[int, np.ndarray] = (-1, np.empty(0, int))

    def since(self, number: int) -> "PKSampler":
        """The same stream without its first batches."""
        later = copy.copy(self)
        later._batches = self._batches[number:]
        return later

    def __len__(self) -> int:
        return len(self._batches) * self.local_size

    def __getitem__(self, slot: int) -> tuple[int, int]:
        place, offset = divmod(int(slot), self.local_size)
        number, offset = self._batches[place], self._first + offset
        latest, images = self._latest
        if latest != number:
            images = self.batch(number)
            self._latest = number, images
        return int(images[offset]), number * len(images) + offset

    def batch(self, number: int) -> Int[np.ndarray, " b"]:
        """Image indices of one whole batch, class by class."""
        rng = stream(self._seed, BATCH, number)
        classes, images = self._shape
        chosen = rng.choice(len(self._counts), classes, replace=False)
        return np.concatenate(
            [
                self._by_class[start + rng.choice(count, images, replace=count < images)]
                for start, count in zip(self._starts[chosen], self._counts[chosen], strict=True)
            ]
        )
