"""Embeddings of a data set by a trained network, written down for whatever is done with them next.

    python -m pddm_jax.embed --checkpoint=WORKDIR --out=OUT [--data=NAME --root=DIR] [--parts=test]

OUT/embeddings.npy [n, d] float32, OUT/labels.npy [n] and OUT/parts.npy [n], 0 for the first of the parts in
about.json, can be read as memory maps; OUT/names.txt has the file name of each row below the data set's
folder; OUT/about.json says where they come from. Rows are in the order in which the data set lists its
images, whatever part these are in. OUT appears when all of it is written. What was killed goes on where it
was; of several processes, with one OUT that all can write to, each reads its images and writes its rows.
"""

import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from absl import flags
from jaxtyping import Float32, Int
from tqdm import tqdm

from pddm_jax import data
from pddm_jax.data import ClosedSet, Split
from pddm_jax.data.listing import Listing, listing, read_names, write_names
from pddm_jax.sharding import data_mesh
from pddm_jax.system import cli, peers, signals
from pddm_jax.system.agreement import together
from pddm_jax.system.files import explained, read_sealed, sweep, sync_folder, write_json, write_sealed
from pddm_jax.system.lock import Lock
from pddm_jax.training.provenance import digest, versions
from pddm_jax.training.restore import load, transform_of
from pddm_jax.training.run_files import Config, read_config
from pddm_jax.training.step import make_embed

PARTS = ("train", "test")
FILES = ("embeddings.npy", "labels.npy", "parts.npy", "names.txt")
"""Whose digests stand in about.json."""

SAVED = 64
"""Batches after which it is written down how far all processes have come."""

FLAGS = flags.FLAGS
INTERRUPTED = "the same command goes on where it was"


class Stored(NamedTuple):
    """What `embed` wrote, as memory maps, and what is told of it."""

    embeddings: Float32[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    about: dict[str, Any]


def read(folder: Path) -> Stored:
    """The embeddings in a folder, verified by the digests in about.json: about 1 s for 1 GB.

    Folders of earlier versions have no digests; of them the shapes and the number of names are checked.

    Raises:
        OSError: they are not there.
        ValueError: a file is missing or damaged; the message names it.
    """
    todo = f"delete {folder} and give the same command again"
    about = read_sealed(folder / "about.json", todo)
    rows, digests = _rows(folder / "about.json", about, todo), about.get("files", {})
    if digests and sorted(digests) != sorted(FILES):
        raise ValueError(
            f"{folder / 'about.json'} is damaged: it lists the files {sorted(digests)}; {todo}"
        )
    for name, theirs in digests.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} is missing: {todo}")
        if file_digest(folder / name) != theirs:
            raise ValueError(f"{folder / name} is damaged: it does not have its digest; {todo}")
    embeddings = _array(folder / "embeddings.npy", (rows, about["columns"]), todo)
    labels = _array(folder / "labels.npy", (rows,), todo)
    if "order" in about:  # else it is of an earlier version, which wrote no more
        _array(folder / "parts.npy", (rows,), todo)
        try:
            count = len(read_names(folder / "names.txt"))
        except FileNotFoundError as error:
            raise ValueError(f"{folder / 'names.txt'} is missing: {todo}") from error
        if count != rows:
            raise ValueError(f"{folder / 'names.txt'} has {count} names for {rows} rows: {todo}")
    return Stored(embeddings, labels, about)


def _rows(path: Path, about: dict[str, Any], todo: str) -> int:
    """The number of rows that about.json says."""
    rows, columns = about.get("rows"), about.get("columns")
    if not isinstance(rows, dict):
        rows = {"": None}
    counts = [*rows.values(), columns]
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"{path} is damaged: rows or columns missing or of a wrong type; {todo}")
    return sum(int(count) for count in rows.values())


def _array(path: Path, shape: tuple[int, ...], todo: str, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """The array in a .npy file as a memory map."""
    try:
        array = np.load(path, mmap_mode=mode)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {todo}") from error
    except (ValueError, EOFError, IsADirectoryError) as error:
        raise ValueError(f"{path} is damaged: {error}; {todo}") from error
    if getattr(array, "shape", None) != shape:
        raise ValueError(f"{path} is damaged: it is no array of shape {shape}; {todo}")
    return array


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        "split": found.description,
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
        if jax.process_index() == 0:
            (out / "done.json").unlink(missing_ok=True)  # of a command that was killed as it ended
        return read(out)
    unfinished = out.with_name(f".{out.name}.part")
    written = _begin(unfinished, about, listed)
    done, size = written.rows, (len(listed.labels), about["columns"])
    embeddings = _array(unfinished / "embeddings.npy", size, _anew(unfinished), "r+")
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
    _save(unfinished, embeddings, done, written)
    with together():
        if place == 0:
            _finish(unfinished, out, about)
    return read(out)


_OF_DATA = ("root", "classes", "ground_truth", "test_classes", "on_error", "crop")
"""Fields of `data` that the images are found by."""


def _load(config: Config, name: str | None, root: str | None) -> Split | ClosedSet:
    fields = config["data"]
    lacking = [field for field in _OF_DATA if field not in fields]
    if lacking:
        raise ValueError(f"config.json of the run is damaged: it has no data.{', data.'.join(lacking)}")
    found = {**fields, "root": root}
    if name is None or name == fields["name"]:
        found["root"] = root or fields["root"]
    else:
        found |= {"name": name, "classes": None, "ground_truth": None, "test_classes": None}
        if name not in data.DATASETS:
            found["crop"] = "none"  # a closed set has no boxes, whatever the run's own data has
    # Where a run has test classes of its own, it had no closed set.
    return data.load_data(found, closed_set=found["test_classes"] is None, seed=config["seed"])


class Written(NamedTuple):
    """How many rows are written, from the first on, and their CRC-32, which process 0 knows."""

    rows: int
    crc32: int


def _anew(folder: Path) -> str:
    return f"delete {folder}, and all is embedded anew"


def _begin(folder: Path, about: dict[str, Any], listed: Listing) -> Written:
    """What an unfinished folder holds, verified; one that is not there is made."""
    told, shape = folder / "about.json", (len(listed.labels), about["columns"])  # `told` is written last
    with together():
        if jax.process_index() == 0:
            is_new = not told.exists()
            if is_new:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                _check_same(folder, about)
                sweep(folder)
            with explained(folder, "nothing is written yet"):
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / "labels.npy", listed.labels)
                np.save(folder / "parts.npy", listed.parts)
                write_names(folder / "names.txt", listed.names)
                if is_new:
                    np.lib.format.open_memmap(folder / "embeddings.npy", "w+", np.float32, shape).flush()
                    _allocate(folder / "embeddings.npy")
            if is_new:
                write_json(folder / "done.json", Written(0, 0)._asdict())
                write_sealed(told, about)
    with together():
        _check_same(folder, about)
        return _verified(folder, shape)


def _verified(folder: Path, shape: tuple[int, int]) -> Written:
    """What done.json says, which must be so: process 0 compares the rows with their CRC-32."""
    path, embeddings = folder / "done.json", _array(folder / "embeddings.npy", shape, _anew(folder))
    try:
        fields = json.loads(path.read_bytes())
        # An earlier version wrote the number of rows alone.
        rows, crc32 = (fields, None) if type(fields) is int else (fields["rows"], fields["crc32"])
    except (ValueError, RecursionError, KeyError, TypeError, FileNotFoundError, IsADirectoryError):
        rows, crc32 = -1, None
    if type(rows) is not int or not 0 <= rows <= len(embeddings):
        raise ValueError(f"{path} is damaged: {_anew(folder)}")
    found = zlib.crc32(embeddings[:rows].data) if jax.process_index() == 0 else 0
    if jax.process_index() == 0 and crc32 not in (None, found):
        raise ValueError(f"{folder / 'embeddings.npy'} or done.json is damaged: {_anew(folder)}")
    return Written(rows, found)


def _finish(folder: Path, out: Path, about: dict[str, Any]) -> None:
    """Let all that is written appear as `out`; a kill at any moment loses nothing of it."""
    for name in FILES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    write_sealed(
        folder / "about.json", about | {"files": {name: file_digest(folder / name) for name in FILES}}
    )
    folder.rename(out)
    (out / "done.json").unlink()
    sync_folder(out)
    sync_folder(out.parent)


def _allocate(path: Path) -> None:
    """Take the space of a file now: without it, writing to its memory map would kill the process."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
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
    theirs, ours = read_sealed(path, f"delete {folder}"), json.loads(json.dumps(about))
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
    with together():
        embeddings.flush()
    written = Written(rows, 0)
    with together():
        if jax.process_index() == 0:
            written = Written(rows, zlib.crc32(embeddings[before.rows : rows].data, before.crc32))
            write_json(folder / "done.json", written._asdict())
    return written


def main(_: list[str]) -> None:
    """Run with the flags of the command line."""
    workdir, out = (cli.given_path(f"--{name}", FLAGS[name].value) for name in ("checkpoint", "out"))
    cli.check_folder("--out", out)
    if FLAGS.root is not None:
        cli.given_path("--root", FLAGS.root)
    cli.check_distributed_flags()
    if FLAGS.distributed:
        peers.join(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    with peers.watched(), signals.at_once(INTERRUPTED, 143):
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
    cli.launch(cli.Command(main, define_flags, "--batch", INTERRUPTED))
