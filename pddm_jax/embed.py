"""Embeddings of a data set by a trained network, written down for whatever is done with them next.

    python -m pddm_jax.embed --checkpoint=WORKDIR --out=OUT [--data=NAME --root=DIR] [--parts=test]

OUT/embeddings.npy [n, d] float32, OUT/labels.npy [n] and OUT/parts.npy [n], 0 for the first of the parts in
about.json, can be read as memory maps; OUT/names.txt has the file name of each row below the data set's
folder; OUT/about.json says where they come from. Rows are in the order in which the data set lists its
images, whatever part these are in. OUT appears when all of it is written. What was killed goes on where it
was; of several processes, with one OUT that all can write to, each reads its images and writes its rows.
"""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags, logging
from jax.experimental.multihost_utils import sync_global_devices
from jaxtyping import Float32, Int
from tqdm import tqdm

from pddm_jax import cli, data, peers
from pddm_jax.agreement import from_first
from pddm_jax.data import ClosedSet, Split
from pddm_jax.data.rgb import MAX_PIXELS
from pddm_jax.files import explained, read_object, write_json
from pddm_jax.listing import Listing, listing, read_names, write_names
from pddm_jax.lock import Lock
from pddm_jax.provenance import digest, versions
from pddm_jax.trained import Config, load, read_config, transform_of
from pddm_jax.training import data_mesh, make_embed

PARTS = ("train", "test")
SAVED = 64
"""Batches after which it is written down how far all processes have come."""

FLAGS = flags.FLAGS


class Stored(NamedTuple):
    """What `embed` wrote, as memory maps, and what is told of it."""

    embeddings: Float32[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    about: dict[str, Any]


def read(folder: Path) -> Stored:
    """The embeddings in a folder; of the arrays nothing is read before it is used.

    Raises:
        OSError: they are not there.
    """
    embeddings, labels = (
        np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("embeddings", "labels")
    )
    return Stored(embeddings, labels, json.loads((folder / "about.json").read_text(encoding="utf-8")))


def embed(
    workdir: Path,
    out: Path,
    name: str | None = None,
    root: str | None = None,
    parts: Sequence[str] = PARTS,
    batch: int = 128,
    workers: int = 0,
) -> Stored:
    """Embed a data set as the run's own test images were; every process calls it.

    Args:
        workdir: of the run.
        out: the folder to be written; where it holds these embeddings, nothing is done.
        name: of the data set; None = that of the run.
        root: its folder; None = that of the run, or the data set's own place.
        parts: of the data set that are embedded.
        batch: images at a time, by all devices together.
        workers: processes that read images; 0 = threads.

    Raises:
        OSError: the run, its checkpoint or the data is not there.
        ValueError: `out` holds something else or is in use, or the data does not fit the run.
        NotWritten: there is no space for all embeddings.
    """
    arguments = workdir, out, name, root, parts, batch, workers
    if out.exists():
        return _embed(*arguments)
    with Lock(out, "--out", out.with_name(f".{out.name}.lock")):
        return _embed(*arguments)


def _embed(
    workdir: Path,
    out: Path,
    name: str | None,
    root: str | None,
    parts: Sequence[str],
    batch: int,
    workers: int,
) -> Stored:
    config, mesh = read_config(workdir), data_mesh()
    found = _load(config, name, root)
    images = {part: getattr(found, part) for part in parts}
    listed = listing(images, root or config["data"]["root"])
    transform = transform_of(config)
    shape = transform.test(images[parts[0]].images[0]).shape
    network, state = load(workdir, config, shape, mesh)
    variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
    about = {
        "data": name or config["data"]["name"],
        "split": found.rule,
        "rows": {part: len(of.labels) for part, of in images.items()},
        "order": "as the data set lists its images",
        "columns": jax.eval_shape(network.apply, variables, np.zeros((1, *shape), np.uint8)).shape[1],
        "classes": {str(n): text for of in images.values() for n, text in of.class_names.items()},
        "step": int(state.step),
        "params_sha256": digest(state),
        "config": config,
        "versions": versions(),
    }
    if out.exists():
        _check_same(out, about)
        _check_whole(out, listed, about["columns"])
        return read(out)
    unfinished = out.with_name(f".{out.name}.part")
    written = _begin(unfinished, about, listed)
    done = written.rows
    embeddings = np.load(unfinished / "embeddings.npy", mmap_mode="r+")
    forward = make_embed(network, mesh)
    places, place = jax.process_count(), jax.process_index()
    share = -(-batch // mesh.size) * mesh.size // places

    batches = data.ordered_batches(listed.since(done), transform, share * places, workers, place, places)
    with tqdm(total=len(embeddings), initial=done, unit="image", disable=None) as bar:
        for number, pixels in enumerate(batches, 1):
            embedded = forward(state, [pixels])[: len(embeddings) - done]
            mine = embedded[place * share : (place + 1) * share]
            embeddings[done + place * share :][: len(mine)] = mine
            done += len(embedded)
            if number % SAVED == 0:
                written = _save(unfinished, embeddings, done, written)
            bar.update(len(embedded))
    written = _save(unfinished, embeddings, done, written)
    if place == 0:
        write_json(unfinished / "about.json", about | {"embeddings_crc32": written.crc32})
        (unfinished / "done.json").unlink()
        unfinished.rename(out)
    _together("renamed")
    return read(out)


def _load(config: Config, name: str | None, root: str | None) -> Split | ClosedSet:
    fields = config["data"]
    lists, unseen = {}, None
    if name is None or name == fields["name"]:
        name, root = fields["name"], root or fields["root"]
        lists = {field: fields[field] for field in ("classes", "ground_truth")}
        unseen = fields["unseen"]
    where = {"root": root, "seed": config["seed"]}
    where |= {field: fields[field] for field in ("image_size", "on_error")}
    where["max_pixels"] = fields.get("max_pixels", MAX_PIXELS)  # which earlier runs do not have
    if name in data.DATASETS or unseen is not None:
        return data.load(name, **where, crop=fields["crop"], unseen=unseen)
    return data.load_closed_set(name, **where, **lists)


class Written(NamedTuple):
    """How many rows are written, from the first on, and their CRC-32, which process 0 knows."""

    rows: int
    crc32: int


def _begin(folder: Path, about: dict[str, Any], listed: Listing) -> Written:
    """What an unfinished folder holds, verified; one that is not there is made."""
    told = folder / "about.json"  # written last
    if jax.process_index() == 0 and not told.exists():
        shutil.rmtree(folder, ignore_errors=True)
        shape = len(listed.labels), about["columns"]
        with explained(folder, "nothing is written yet"):
            folder.mkdir(parents=True)
            np.save(folder / "labels.npy", listed.labels)
            np.save(folder / "parts.npy", listed.parts)
            write_names(folder / "names.txt", listed.names)
            np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float32, shape).flush()
            _allocate(folder / "embeddings.npy")
        write_json(folder / "done.json", {"rows": 0, "crc32": 0})
        write_json(told, about)
    _together("begun")
    _check_same(folder, about)
    embeddings = _check_listed(folder, listed, about["columns"])
    return _read_done(folder, embeddings)


def _read_done(folder: Path, embeddings: np.ndarray) -> Written:
    """What done.json says, which must be so."""
    todo = f"delete {folder}, and all is embedded anew"
    try:
        told = json.loads((folder / "done.json").read_bytes())
    except (ValueError, OSError):
        told = None
    if isinstance(told, int):  # of an earlier version
        told = {"rows": told}
    done = told.get("rows") if isinstance(told, dict) else None
    if type(done) is not int or not 0 <= done <= len(embeddings):
        raise ValueError(f"{folder / 'done.json'} is damaged: {todo}")
    found = zlib.crc32(embeddings[:done].data) if jax.process_index() == 0 else 0
    damaged = jax.process_index() == 0 and told.get("crc32", found) != found
    if from_first("damaged" if damaged else ""):
        raise ValueError(f"{folder / 'embeddings.npy'} or done.json is damaged: {todo}")
    return Written(done, found)


def _check_listed(folder: Path, listed: Listing, columns: int) -> np.ndarray:
    """The embeddings in a folder, whose other arrays and names must be those of the images.

    Raises:
        ValueError: a file is damaged or missing.
    """
    todo = f"delete {folder}, and all is embedded anew"
    arrays = {}
    for name in ("embeddings", "labels", "parts"):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} is damaged or missing: {todo}") from error
    for name, right in (("labels", listed.labels), ("parts", listed.parts)):
        if not np.array_equal(arrays[name], right):
            raise ValueError(f"{folder / name}.npy is damaged: {todo}")
    embeddings = arrays["embeddings"]
    if embeddings.shape != (len(listed.labels), columns) or embeddings.dtype != np.float32:
        raise ValueError(f"{folder / 'embeddings.npy'} is damaged: {todo}")
    try:
        same = read_names(folder / "names.txt") == listed.names
    except (ValueError, OSError):
        same = False
    if not same:
        raise ValueError(f"{folder / 'names.txt'} is damaged or missing: {todo}")
    return embeddings


def _check_whole(folder: Path, listed: Listing, columns: int) -> None:
    """Raise a ValueError where a file of finished embeddings is damaged; earlier ones have no CRC-32."""
    embeddings = _check_listed(folder, listed, columns)
    told = read_object(folder / "about.json", f"delete {folder}").get("embeddings_crc32")
    if told is not None and told != zlib.crc32(embeddings.data):
        raise ValueError(
            f"{folder / 'embeddings.npy'} is damaged: it does not have its CRC-32; delete {folder}, and "
            "all is embedded anew"
        )


def _allocate(path: Path) -> None:
    """Take the space of a file now: without it, writing to its memory map would kill the process."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot
                raise


def _check_same(folder: Path, about: dict[str, Any]) -> None:
    """Raise a ValueError where a folder holds something else; that of other versions is the same."""
    path = folder / "about.json"
    if not path.is_file():
        raise ValueError(f"{folder} is there already, and holds no embeddings")
    theirs, ours = read_object(path, f"delete {folder}"), json.loads(json.dumps(about))
    differing = [name for name in ours if name != "versions" and theirs.get(name) != ours[name]]
    if differing == ["order"]:
        raise ValueError(
            f"{folder} was written by an earlier version, whose rows are in another order: choose another "
            "--out, or delete it"
        )
    if differing:
        raise ValueError(
            f"{folder} holds embeddings of another run or data set ({', '.join(differing)} differ): choose "
            "another --out, or delete it"
        )


def _save(folder: Path, embeddings: np.memmap, rows: int, before: Written) -> Written:
    """Write down that all rows before `rows` are there, once those of all processes are."""
    embeddings.flush()
    _together("flushed")
    if jax.process_index() > 0:
        return Written(rows, 0)
    written = Written(rows, zlib.crc32(embeddings[before.rows : rows].data, before.crc32))
    write_json(folder / "done.json", written._asdict())
    return written


def _together(name: str) -> None:
    if jax.process_count() > 1:
        sync_global_devices(name)


def main(_: list[str]) -> None:
    """Run with the flags of the command line."""
    logging.set_verbosity(logging.ERROR)
    workdir, out = (cli.given_path(f"--{name}", FLAGS[name].value) for name in ("checkpoint", "out"))
    cli.check_folder("--out", out)
    if FLAGS.root is not None:
        cli.given_path("--root", FLAGS.root)
    cli.check_distributed_flags()
    if FLAGS.distributed:
        peers.join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    with peers.watched():
        stored = embed(workdir, out, FLAGS.data, FLAGS.root, FLAGS.parts, FLAGS.batch, FLAGS.workers)
    if jax.process_index() == 0:
        n, d = stored.embeddings.shape
        print(f"{out}: {n} embeddings of {d} dimensions, step {stored.about['step']} of {workdir}")


def define_flags() -> None:
    """The flags of the command."""
    flags.DEFINE_string("checkpoint", None, "Workdir of the run.", required=True)
    flags.DEFINE_string("out", None, "Folder for the embeddings, not there or of the same.", required=True)
    flags.DEFINE_string("data", None, "Name of a data set; by default the run's own.")
    flags.DEFINE_string("root", None, "Its folder.")
    flags.DEFINE_multi_enum("parts", [*PARTS], [*PARTS], "Which of its images; may be given twice.")
    flags.DEFINE_integer("batch", 128, "Images at a time.", lower_bound=1, upper_bound=2**20)
    flags.DEFINE_integer(
        "workers", 0, "Processes that read; 0: threads.", lower_bound=0, upper_bound=cli.MAX_WORKERS
    )
    cli.define_distributed_flags()


if __name__ == "__main__":
    cli.launch(cli.Command(main, define_flags, "--batch", "the same command goes on where it was"))
