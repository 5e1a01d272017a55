"""Writing one shard: each image is decoded once to check it, and the shard is written atomically."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pddm_jax.data.storage.decode import Encoded, Key, key_of
from pddm_jax.data.storage.records import INDEX, open_shard, write_shard


class ShardTask(NamedTuple):
    """A shard to be written."""

    path: Path
    images: Encoded
    skip: bool  # leave the record of an unreadable image empty, instead of stopping


class Done(NamedTuple):
    """A written shard: its size in bytes, its skipped images and the key of each record; or the error."""

    size: int
    skipped: list[int]
    error: str = ""
    keys: list[Key] = []  # noqa: RUF012 (of a NamedTuple: never changed)


def make_shard(task: ShardTask) -> Done:
    """Write a shard, unless the file already holds these images; one image is in memory at a time.

    An error is returned as text, so that processes and pipelines return the same.
    """
    try:
        found = _held(task)
        if found is None:
            found = [], []
            (task.path.parent / INDEX).unlink(missing_ok=True)  # an index of replaced shards
            write_shard(task.path, _records(task, *found))
        skipped, keys = found
        return Done(task.path.stat().st_size, skipped, "", keys)
    except (ValueError, OSError) as error:
        return Done(0, [], str(error))


def _records(task: ShardTask, skipped: list[int], keys: list[Key]) -> Iterator[bytes]:
    """The encoded images, empty where one is skipped; appends to `skipped` and `keys`."""
    for number in range(len(task.images)):
        try:
            data = task.images.read(number)
            task.images.decode(number, data)
        except (ValueError, OSError) as error:
            if not task.skip:
                raise ValueError(f"{error} (--on_error=skip leaves it out)") from error
            skipped.append(number)
            data = b""
        keys.append(key_of(data))
        yield data


def _held(task: ShardTask) -> tuple[list[int], list[Key]] | None:
    """The skipped images and all keys of a shard that already holds these images; else None."""
    path, images, skip = task
    if not path.is_file():
        return None
    reader = open_shard(path)
    skipped: list[int] = []
    keys: list[Key] = []
    try:
        if reader.num_records() != len(images):
            return None
        for number in range(len(images)):
            data = reader.read([number])[0]
            keys.append(key_of(data))
            if data and data == images.read(number):  # written images were decoded
                continue
            if data or not skip or _is_readable(images, number):
                return None
            skipped.append(number)
    except RuntimeError:  # of ArrayRecord, at a corrupt file
        return None
    return skipped, keys


def _is_readable(images: Encoded, number: int) -> bool:
    try:
        images[number]
    except (ValueError, OSError):
        return False
    return True
