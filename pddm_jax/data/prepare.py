"""Turn images on disk into ArrayRecord shards, once: the same bytes, each decoded once, in few big files.

python -m pddm_jax.data.prepare --source=cars196 --root=DIR --out=DIR

The folder can then be given wherever the data set's own folder can. A run that was killed is started
again with the same flags, and keeps the shards that are whole.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags
from tqdm import tqdm

from pddm_jax.data.decode import Encoded, decode
from pddm_jax.data.records import INDEX, Index, Shard, open_shard, read_index, write_index, write_shard
from pddm_jax.data.sources import SOURCES, Source

FLAGS = flags.FLAGS


def prepare(name: str, source: Source, root: Path, out: Path, shard_images: int, skip: bool) -> list[str]:
    """Write the shards of a source, then their index; shards that hold its images already are kept.

    Args:
        name: of the source, in `SOURCES`.
        source: its images.
        root: where they are; their names in the index are relative to it.
        out: where the shards go.
        shard_images: how many images a shard holds, 1 or more.
        skip: leave the record of an image that cannot be decoded empty, instead of stopping.

    Returns:
        The names of the images that were skipped.

    Raises:
        ValueError: an image cannot be decoded, or `out` holds other prepared images.
    """
    images = source.images
    starts = range(0, len(images), shard_images)
    parts = [range(start, min(start + shard_images, len(images))) for start in starts]
    paths = [out / f"images-{n:05d}-of-{len(parts):05d}.array_record" for n in range(len(parts))]
    _check_out(out, name, paths)
    skipped: set[int] = set()

    def record(number: int) -> bytes:
        """The encoded image, decoded once; empty where it is skipped."""
        try:
            data = images.read(number)
            decode(data)
        except (ValueError, OSError) as error:
            if not skip:
                raise ValueError(f"{images.name(number)} {error}") from error
            skipped.add(number)
            return b""
        return data

    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(images), desc="preparing", unit="image", disable=None) as bar,
    ):

        def told(records: Iterator[bytes]) -> Iterator[bytes]:
            for data in records:
                bar.update()
                yield data

        for path, numbers in zip(paths, parts, strict=True):
            if _holds(path, images, numbers, pool):
                bar.update(len(numbers))
            else:
                (out / INDEX).unlink(missing_ok=True)  # which would tell of what is now replaced
                write_shard(path, told(pool.map(record, numbers)))

    shards = [Shard(p.name, len(part), p.stat().st_size) for p, part in zip(paths, parts, strict=True)]
    names = [images.name(number).removeprefix(f"{root}/") for number in range(len(images))]
    about = (source.labels, source.class_names, source.boxes, source.in_train)
    write_index(out, Index(name, source.layout, shards, names, *about))
    for part in out.glob(".*-images-*.array_record"):  # of runs that were killed
        part.unlink()
    return [names[number] for number in sorted(skipped)]


def _check_out(out: Path, name: str, paths: list[Path]) -> None:
    """Refuse a folder whose shards are not those that are to be written."""
    shards = {*out.glob("images-*.array_record")} if out.is_dir() else set()
    if shards - {*paths}:
        raise ValueError(
            f"{out} holds shards of other images or of another number of images a shard, such as "
            f"{min(shards - {*paths}).name}: give the same flags as before, or an empty folder"
        )
    if (out / INDEX).is_file() and (found := read_index(out).source) != name:
        raise ValueError(f"{out} holds prepared images of {found}: give an empty folder")


def _holds(path: Path, images: Encoded, numbers: range, pool: ThreadPoolExecutor) -> bool:
    """Whether a shard is there with just these images, none skipped: what was written was decoded."""
    if not path.is_file():
        return False
    reader = open_shard(path)

    def is_same(place: int) -> bool:
        data = reader.read([place])[0]
        return bool(data) and data == images.read(numbers[place])

    try:
        return reader.num_records() == len(numbers) and all(pool.map(is_same, range(len(numbers))))
    except RuntimeError:  # of ArrayRecord, where the file is corrupt
        return False


def main(arguments: list[str]) -> None:
    """Run with the flags of the command line."""
    if len(arguments) > 1:
        raise app.UsageError(f"unknown argument {arguments[1]!r}")
    root, out = Path(FLAGS.root).expanduser(), Path(FLAGS.out).expanduser()
    try:
        source = SOURCES[FLAGS.source](root)
        skipped = prepare(FLAGS.source, source, root, out, FLAGS.shard_images, FLAGS.on_error == "skip")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print("".join(f"skipped {name}\n" for name in skipped), end="")
    print(f"{out}: {len(source.images) - len(skipped)} images of {FLAGS.source}")


if __name__ == "__main__":
    flags.DEFINE_enum("source", None, [*SOURCES], "What the folder holds.", required=True)
    flags.DEFINE_string("root", None, "Folder of the images.", required=True)
    flags.DEFINE_string("out", None, "Folder for the shards, empty or of an earlier run.", required=True)
    flags.DEFINE_integer("shard_images", 1024, "Images in a shard.", lower_bound=1)
    flags.DEFINE_enum("on_error", "stop", ["stop", "skip"], "What to do about an unreadable image.")
    app.run(main)
