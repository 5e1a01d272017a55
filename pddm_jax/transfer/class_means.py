"""Class means of a stream of embeddings: float64 sums in one pass, over all cores and processes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import process_allgather
from jaxtyping import Float32, Float64, Int, Int64, Num

from pddm_jax.system.processes import cores
from pddm_jax.types import AnyArray

CHUNK = 2**19
"""Numbers that a core adds at a time: they fit in its cache."""

GATHERED = 1024
"""Classes for which the processes exchange sums at a time."""

Blocks = Iterable[tuple[Num[AnyArray, "n d"], Int[AnyArray, " n"]]]
"""Blocks of embeddings with their labels."""


class ClassMeans(NamedTuple):
    """The sum and the number of the embeddings of each class: a pytree of arrays on the host."""

    classes: Int64[np.ndarray, " c"]  # their labels, ascending
    sums: Float64[np.ndarray, "c d"]
    counts: Int64[np.ndarray, " c"]

    def centroids(self) -> Float32[np.ndarray, "c d"]:
        """The mean of each class, in the order of `classes`."""
        return (self.sums / self.counts[:, None]).astype(np.float32)

    def add(self, embeddings: Num[AnyArray, "n d"], labels: Int[AnyArray, " n"]) -> "ClassMeans":
        """The means with more images, of new classes or of known ones, without training.

        Raises:
            ValueError: as `class_means`, or the embeddings are of another width.
        """
        return merge([self, class_means([(embeddings, labels)])])

    def subset(self, classes: Int[np.ndarray, " k"]) -> "ClassMeans":
        """The means of the given classes, in ascending order.

        Raises:
            ValueError: a class has no mean.
        """
        missing = np.setdiff1d(classes, self.classes)
        if len(missing):
            raise ValueError(f"classes must have a mean, but class {missing[0]} has none")
        chosen = np.isin(self.classes, classes)
        return ClassMeans(self.classes[chosen], self.sums[chosen], self.counts[chosen])


def class_means(blocks: Blocks) -> ClassMeans:
    """The means of all classes in a stream, summed in float64.

        mean_c = 1/n_c  sum of the n_c embeddings of class c

    Memory holds one or two blocks, and a row of sums for each class. Blocks with ten images of a class or
    more are fastest. If an array is sharded over the devices of several processes, each process adds the
    rows that it holds; `merge_processes` merges their means.

    Args:
        blocks: embeddings [n, d] of any real type, and labels [n], integers.

    Raises:
        ValueError: a block is not a matrix of real numbers, differs from the one before in width, or is not
            finite; or its labels do not fit.

    Source: Mensink, Verbeek, Perronnin, Csurka, "Distance-Based Image Classification: Generalizing to New
    Classes at Near-Zero Cost", PAMI 2013, section 3.
    """
    table = _Table()
    with ThreadPoolExecutor(cores()) as pool:
        pending: list[Future[None]] = []
        for block in blocks:
            for x, labels in _local_rows(*block):
                size = max(1, CHUNK // max(x.shape[1], 1))
                groups = _by_class(labels, size)  # while the rows of the block before are being added
                _wait(pending)
                rows = [table.rows(group, x.shape[1]) for group in groups]
                shares = (slice(core, None, cores()) for core in range(cores()))
                pending = [
                    pool.submit(_add, table.sums, x, groups[share], rows[share], size) for share in shares
                ]
        _wait(pending)
    return table.finish()


def _wait(pending: list[Future[None]]) -> None:
    for future in pending:
        future.result()


def _local_rows(embeddings: AnyArray, labels: AnyArray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of a block that this process holds, on the host, with their labels."""
    real = jnp.issubdtype(embeddings.dtype, jnp.floating) or jnp.issubdtype(embeddings.dtype, jnp.integer)
    if not real or embeddings.ndim != 2:
        found = f"{embeddings.dtype} of shape {embeddings.shape}"
        raise ValueError(f"embeddings must be a matrix of real numbers, got {found}")
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == np.uint64:
        raise ValueError(f"labels must be integers of at most 63 bits, got {labels.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels must have shape [{len(embeddings)}], got {labels.shape}")
    if not isinstance(embeddings, jax.Array) or embeddings.is_fully_addressable:
        yield np.asarray(embeddings), np.asarray(labels)
        return
    for shard in embeddings.addressable_shards:
        if shard.data.shape[1] != embeddings.shape[1]:
            raise ValueError("embeddings must be sharded over the devices by rows, not by columns")
        if shard.replica_id == 0:
            yield np.asarray(shard.data), _rows_of(labels, shard.index[0])


def _rows_of(labels: AnyArray, rows: slice) -> np.ndarray:
    """The labels of some rows, from the host or from a shard with the same rows."""
    if isinstance(labels, jax.Array) and not labels.is_fully_addressable:
        return next(np.asarray(s.data) for s in labels.addressable_shards if s.index[0] == rows)
    return np.asarray(labels[rows])


class _Group(NamedTuple):
    """Classes with equally many images in a block."""

    classes: Int[np.ndarray, " m"]
    images: Int[np.ndarray, "m k"]  # the rows of each class


def _by_class(labels: Int[np.ndarray, " n"], size: int) -> list[_Group]:
    """All rows of a block, in groups of about `size` rows or of one class."""
    if len(labels) and labels.min() >= 0 and labels.max() < 2**16:
        labels = labels.astype(np.uint16)  # NumPy sorts 16 bits by radix
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(labels)])
    counts = np.diff(starts, append=len(labels))
    groups = []
    for count in np.unique(counts).tolist():
        equal, step = starts[counts == count], max(1, size // count)
        for begin in np.split(equal, range(step, len(equal), step)):
            groups.append(_Group(ordered[begin], order[begin[:, None] + np.arange(count)]))
    return groups


class _Table:
    """A row of sums for each class, in the order of their first images."""

    def __init__(self) -> None:
        self._row: dict[int, int] = {}
        self._counts = np.zeros(0, np.int64)
        self.sums = np.zeros((0, 0))

    def rows(self, group: _Group, width: int) -> Int[np.ndarray, " m"]:
        """The row of each class of a group; counts the images of the group."""
        if self._row and width != self.sums.shape[1]:
            raise ValueError(f"embeddings must have {self.sums.shape[1]} columns, as before, got {width}")
        rows = np.array([self._row.setdefault(c, len(self._row)) for c in group.classes.tolist()], int)
        if len(self._row) > len(self.sums):  # twice as many rows: amortized constant cost
            more = 2 * len(self._row) - len(self.sums)
            self.sums = np.pad(self.sums.reshape(-1, width), ((0, more), (0, 0)))
            self._counts = np.pad(self._counts, (0, more))
        self._counts[rows] += group.images.shape[1]
        return rows

    def finish(self) -> ClassMeans:
        """The sums by ascending class."""
        classes = np.array([*self._row], np.int64)
        order = np.argsort(classes)
        return ClassMeans(classes[order], self.sums[order], self._counts[order])


def _add(sums: np.ndarray, x: np.ndarray, groups: list[_Group], rows: list[np.ndarray], size: int) -> None:
    """Add the images of some groups to the sums of their classes, as many as fit in a cache at a time."""
    for group, row in zip(groups, rows, strict=True):
        for images in np.split(group.images, range(size, group.images.shape[1], size), axis=1):
            added = np.take(x, images, axis=0).sum(axis=1, dtype=np.float64)
            if not np.isfinite(added).all():
                bad = group.classes[~np.isfinite(added).all(axis=1)]
                raise ValueError(f"embeddings must be finite, but some of class {bad[0]} are not")
            sums[row] += added


def merge(parts: list[ClassMeans]) -> ClassMeans:
    """The means of the images of all parts.

    Raises:
        ValueError: the parts differ in width.
    """
    parts = [part for part in parts if len(part.classes)] or parts[:1]
    widths = sorted({part.sums.shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(f"embeddings and means must have the same number of columns, got {widths}")
    classes = np.unique(np.concatenate([part.classes for part in parts]))
    whole = ClassMeans(classes, np.zeros((len(classes), *widths)), np.zeros(len(classes), np.int64))
    for part in parts:
        rows = np.searchsorted(classes, part.classes)
        whole.sums[rows] += part.sums
        whole.counts[rows] += part.counts
    return whole


def merge_processes(means: ClassMeans) -> ClassMeans:
    """The means over all processes: each passes its own, and all get the same."""
    if jax.process_count() == 1:
        return means
    sizes = process_allgather(np.array(means.sums.shape, np.int32))
    widths = sorted({int(width) for count, width in sizes if count})
    if len(widths) > 1:
        raise ValueError(f"embeddings must have the same number of columns in all processes, got {widths}")
    width = widths[0] if widths else 0
    most = np.pad(means.classes, (0, max(sizes[:, 0]) - len(means.classes)))
    found = [row[:count] for row, (count, _) in zip(_gathered(most), sizes, strict=True)]
    classes = np.unique(np.concatenate(found))
    parts = []
    for start in range(0, len(classes), GATHERED):
        chunk = classes[start : start + GATHERED]
        empty = ClassMeans(chunk, np.zeros((len(chunk), width)), np.zeros(len(chunk), np.int64))
        local = merge([empty, means.subset(np.intersect1d(chunk, means.classes))])
        parts.append((chunk, _gathered(local.sums).sum(axis=0), _gathered(local.counts).sum(axis=0)))
    return ClassMeans(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _gathered(x: np.ndarray) -> np.ndarray:
    """The arrays of all processes, in 64 bits, which JAX by default would truncate."""
    whole = process_allgather(np.ascontiguousarray(x).view(np.uint32))
    return np.ascontiguousarray(whole).view(x.dtype)


def save_class_means(path: Path, means: ClassMeans) -> None:
    """Write means to a new folder, atomically.

    Raises:
        ValueError: the folder exists.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), means._asdict())


def load_class_means(path: Path) -> ClassMeans:
    """Read means that `save_class_means` wrote.

    Raises:
        OSError: the folder does not exist.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return ClassMeans(**checkpointer.restore(path.absolute()))
