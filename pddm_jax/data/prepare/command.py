"""The command that writes the images of a data set as ArrayRecord shards, and its flags."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags, logging
from tqdm import tqdm

from pddm_jax.data.layouts.base import Source, summarize
from pddm_jax.data.load import NAMES, find
from pddm_jax.data.prepare.beam import in_beam
from pddm_jax.data.prepare.shards import Done, ShardTask, make_shard
from pddm_jax.data.quality import same_bytes
from pddm_jax.data.storage.decode import Key
from pddm_jax.data.storage.records import Index, Shard, read_index, write_index
from pddm_jax.data.storage.rgb import MAX_PIXELS
from pddm_jax.system import cli
from pddm_jax.system.console import errors_in_one_line
from pddm_jax.system.lock import Lock
from pddm_jax.system.processes import cores, in_processes

FLAGS = flags.FLAGS
RESUMES = "the same command goes on after the shards that are whole"


@errors_in_one_line()
def prepare(
    name: str,
    source: Source,
    root: Path,
    out: Path,
    shard_images: int,
    skip: bool,
    run: Callable[[Sequence[ShardTask]], Iterable[Done]] = lambda tasks: map(make_shard, tasks),
) -> list[str]:
    """Write the shards of a source, then their index; shards that already hold its images are kept.

    Args:
        name: of the source.
        source: its images.
        root: folder of the images; their names in the index are relative to it.
        out: folder for the shards.
        shard_images: images in a shard, 1 or more; it decides which images a shard holds.
        skip: leave the record of an unreadable image empty, instead of stopping.
        run: writes the shards and returns the result of each, in order.

    Returns:
        The names of the skipped images.

    Raises:
        ValueError: an image cannot be decoded, the name of an image or a class is not UTF-8, or `out` holds
            other prepared images.
    """
    images = source.images
    names = [images.name(number).removeprefix(f"{root}/") for number in range(len(images))]
    _check_names([*names, *source.class_names.values()])
    starts = range(0, len(images), shard_images)
    parts = [np.arange(start, min(start + shard_images, len(images))) for start in starts]
    paths = [out / f"images-{n:05d}-of-{len(parts):05d}.array_record" for n in range(len(parts))]
    _check_out(out, name, names, paths)
    shards, skipped = [], []
    keys: dict[int, Key] = {}
    tasks = [ShardTask(path, images.take(part), skip) for path, part in zip(paths, parts, strict=True)]
    with tqdm(total=len(images), desc="preparing", unit="image", disable=None) as bar:
        for path, part, done in zip(paths, parts, run(tasks), strict=True):
            if done.error:
                raise ValueError(done.error)
            shards.append(Shard(path.name, len(part), done.size))
            skipped += part[done.skipped].tolist()
            keys |= zip(part.tolist(), map(_as_key, done.keys), strict=True)
            bar.update(len(part))

    for number in skipped:
        del keys[number]
    in_parts = [0] * len(images) if source.in_train is None else source.in_train.tolist()
    note = same_bytes(keys, source.labels.tolist(), in_parts, images.read, names.__getitem__)
    notes = (*source.notes, *([note] if note else []))
    for note in notes:
        logging.warning("data: %s", note)
    about = (source.labels, source.class_names, source.boxes, source.in_train, np.array(skipped, np.int32))
    write_index(out, Index(name, source.layout, shards, names, *about, notes))
    for left in out.glob(".*-images-*.array_record"):  # of killed runs
        left.unlink()
    return [names[number] for number in skipped]


def _as_key(key: Sequence[int]) -> Key:
    length, crc = key  # a list, if it was read from JSON
    return length, crc


def _check_names(names: list[str]) -> None:
    """Refuse names that an index, or another machine, cannot represent."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the name {name!r} is not UTF-8: rename it") from error


def _check_out(out: Path, name: str, names: list[str], paths: list[Path]) -> None:
    """Refuse a folder that holds the shards of other images."""
    shards = {*out.glob("images-*.array_record")} if out.is_dir() else set()
    if shards - {*paths}:
        raise ValueError(
            f"{out} holds shards of other images or of another --shard_images, for example "
            f"{min(shards - {*paths}).name}: give the same flags as before, or an empty folder"
        )
    try:
        index = read_index(out)
    except (FileNotFoundError, ValueError):
        return  # there is none, or it is truncated: it is written again
    if index.source != name:
        raise ValueError(f"{out} holds prepared images of {index.source}: give an empty folder")
    if index.names != names:
        odd = sorted({*index.names} ^ {*names})
        differing = f"only in one list: {summarize(odd)}" if odd else "another order"
        raise ValueError(
            f"{out} holds records of another list of images ({differing}): give an empty folder"
        )


def check_flags(arguments: list[str]) -> None:
    """Check the paths of the flags, and that only Beam takes other arguments."""
    if len(arguments) > 1 and FLAGS.runner is None:
        raise ValueError(f"unknown argument {arguments[1]!r}")
    root, out = cli.given_path("--root", FLAGS.root), cli.given_path("--out", FLAGS.out)
    if out.resolve() == root.resolve():
        raise ValueError(f"--out must be another folder than --root, {root}")
    cli.check_folder("--out", out)
    for name in ("classes", "ground_truth"):
        if FLAGS[name].value is not None:
            cli.check_file(f"--{name}", cli.given_path(f"--{name}", FLAGS[name].value))


def main(arguments: list[str]) -> None:
    """Run with the flags of the command line; `arguments` after the first are flags of Beam."""
    root, out = cli.given_path("--root", FLAGS.root), cli.given_path("--out", FLAGS.out)
    workers, skip = FLAGS.workers or cores(), FLAGS.on_error == "skip"
    run = partial(_make_shards, out=out, workers=workers, beam_flags=arguments[1:])
    with Lock(out, "--out"):
        source = find(FLAGS.source, root, FLAGS.classes, FLAGS.ground_truth, skip, workers)
        source = source._replace(images=source.images.limited(FLAGS.max_pixels))
        skipped = prepare(FLAGS.source, source, root, out, FLAGS.shard_images, skip, run)
    print("".join(f"skipped {name}\n" for name in skipped), end="")
    print(f"{out}: {len(source.images) - len(skipped)} images of {FLAGS.source}; {len(skipped)} skipped")


def _make_shards(
    tasks: Sequence[ShardTask], out: Path, workers: int, beam_flags: list[str]
) -> Iterable[Done]:
    """Make the shards by worker processes, or by the runner of Beam in --runner."""
    if FLAGS.runner is None:
        return in_processes(make_shard, tasks, workers)
    return in_beam(tasks, out.absolute(), FLAGS.runner, beam_flags)


def define_flags() -> None:
    """The flags of the command."""
    flags.DEFINE_enum("source", None, [*NAMES], "Data set in the folder.", required=True)
    flags.DEFINE_string("root", None, "Folder of the images.", required=True)
    flags.DEFINE_string("out", None, "Folder for the shards, empty or of a run to resume.", required=True)
    flags.DEFINE_string("classes", None, "ImageNet: file of WordNet ids, one on each line.")
    flags.DEFINE_string("ground_truth", None, "ImageNet: file of the classes of numbered test images.")
    flags.DEFINE_integer("shard_images", 1024, "Images in a shard.", lower_bound=1, upper_bound=2**31 - 1)
    flags.DEFINE_enum("on_error", "stop", ["stop", "skip"], "What to do at an unreadable image.")
    flags.DEFINE_integer("max_pixels", MAX_PIXELS, "Limit of pixels of an image.", lower_bound=1)
    flags.DEFINE_integer(
        "workers", 0, "Processes; 0: one for each core.", lower_bound=0, upper_bound=cli.MAX_WORKERS
    )
    flags.DEFINE_string("runner", None, "Apache Beam runner that writes the shards, instead of processes.")


COMMAND = cli.Command(
    main,
    define_flags,
    lower="--workers",
    interrupted=RESUMES,
    ended=RESUMES,
    check=check_flags,
    rest=True,
)
