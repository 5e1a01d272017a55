"""Embeddings of a data set by the network of a run, as NumPy memory maps.

    python -m pddm_jax.embed --checkpoint=WORKDIR --out=OUT [--data=NAME --root=DIR] [--parts=test]

OUT/embeddings.npy [n, d] float32, OUT/labels.npy [n] and OUT/parts.npy [n] (0 for the first of the parts in
about.json) can be read as memory maps; OUT/names.txt has the file name of each row, below the folder of the
data set; OUT/about.json describes the run and the data. Rows are in the order in which the data set lists
its images, whatever their part. OUT appears when all rows are written. A killed command resumes. With
several processes and one OUT that all can write to, each one reads its own images and writes their rows.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh
from tqdm import tqdm

from pddm_jax import data
from pddm_jax.data import ClosedSet, Split
from pddm_jax.data.listing import Listing, listing
from pddm_jax.data.transforms import Transform
from pddm_jax.embedding_store import Stored, UnfinishedStore, check_same, read
from pddm_jax.sharding import data_mesh, round_up_to_devices
from pddm_jax.system import cli
from pddm_jax.system.lock import Lock
from pddm_jax.training.provenance import digest, versions
from pddm_jax.training.restore import Trained, restore_trained, transform_of
from pddm_jax.training.run_files import Config, read_config
from pddm_jax.training.step import make_embed

__all__ = ["Stored", "embed", "read"]

PARTS = ("train", "test")

SAVE_EVERY = 64
"""Batches between two records of the rows that all processes have written."""

FLAGS = flags.FLAGS
RESUMES = "the same command goes on where it was"


class EmbeddingTask(NamedTuple):
    """The images to embed and the network that embeds them.

    Attributes:
        about: the fields of about.json.
        listed: the images, a row each.
        transform: from an image to the input of the network.
        trained: the network and its state.
        mesh: over which a batch is shared.
    """

    about: dict[str, Any]
    listed: Listing
    transform: Transform
    trained: Trained
    mesh: Mesh


def embed(
    workdir: Path,
    out: Path,
    name: str | None = None,
    root: str | None = None,
    parts: Sequence[str] = PARTS,
    batch: int = 128,
    workers: int = 0,
) -> Stored:
    """Embed a data set with the test transform of the run; every process calls it.

    Args:
        workdir: of the run.
        out: the folder to be written; if it holds these embeddings already, nothing is done.
        name: of the data set; None = the one of the run.
        root: its folder; None = the one of the run, or the default folder of the data set.
        parts: of the data set that are embedded.
        batch: images at a time, on all devices together.
        workers: processes that read images; 0 = threads.

    Raises:
        OSError: the run, its checkpoint or the data is not there.
        ValueError: `out` holds something else or is in use, or the data does not fit the run.
        NotWritten: there is no space for all embeddings.
    """
    lock = Lock(out, "--out", out.with_name(f".{out.name}.lock"))
    with nullcontext() if out.exists() else lock:
        task = _make_embedding_task(workdir, name, root, parts)
        if out.exists():
            check_same(out, task.about)
            if jax.process_index() == 0:
                (out / "done.json").unlink(missing_ok=True)  # of a command that was killed as it ended
            return read(out)
        store = UnfinishedStore(out, task.about, task.listed)
        _write_rows(task, store, batch, workers)
        return store.finish()


def _make_embedding_task(
    workdir: Path, name: str | None, root: str | None, parts: Sequence[str]
) -> EmbeddingTask:
    """Find the images, restore the network and describe both."""
    config, mesh = read_config(workdir), data_mesh()
    found = load_data(config, name, root)
    images = {part: getattr(found, part) for part in parts}
    listed = listing(images, root or config["data"]["root"])
    transform = transform_of(config["data"])
    shape = transform.test(images[parts[0]].images[0]).shape
    trained = restore_trained(workdir, config, shape, mesh)
    network, state = trained
    about = {
        "data": name or config["data"]["name"],
        "split": found.description,
        "rows": {part: len(of.labels) for part, of in images.items()},
        "order": "as the data set lists its images",
        "columns": jax.eval_shape(network.apply, state.variables, np.zeros((1, *shape), np.uint8)).shape[1],
        "classes": {str(n): text for of in images.values() for n, text in of.class_names.items()},
        "step": int(state.step),
        "params_sha256": digest(state),
        "config": config,
        "versions": versions(),
    }
    return EmbeddingTask(about, listed, transform, trained, mesh)


def _write_rows(task: EmbeddingTask, store: UnfinishedStore, batch: int, workers: int) -> None:
    """Embed the images from the first row that is missing; each process writes its share of every batch."""
    network, state = task.trained
    forward = make_embed(network, task.mesh)
    count, index = jax.process_count(), jax.process_index()
    share = round_up_to_devices(batch, task.mesh) // count
    embeddings, done = store.embeddings, store.progress.rows

    images = task.listed.since(done)
    batches = data.ordered_batches(images, task.transform, share * count, workers, index, count)
    with tqdm(total=len(embeddings), initial=done, unit="image", disable=None) as bar:
        for number, pixels in enumerate(batches, 1):
            embedded = forward(state, [pixels])[: len(embeddings) - done]
            own = embedded[index * share : (index + 1) * share]
            embeddings[done + index * share :][: len(own)] = own
            done += len(embedded)
            if number % SAVE_EVERY == 0:
                store.save(done)
            bar.update(len(embedded))
    store.save(done)


_DATA_FIELDS = ("root", "classes", "ground_truth", "test_classes", "on_error", "crop")
"""Fields of `data` that images are found by."""


def load_data(config: Config, name: str | None, root: str | None) -> Split | ClosedSet:
    """The data set of a run, or another one with the run's image size and crop.

    Args:
        config: of the run.
        name: of the data set; None = the one of the run.
        root: its folder; None = the one of the run, or the default folder of another data set.
    """
    fields = config["data"]
    lacking = [field for field in _DATA_FIELDS if field not in fields]
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


def check_flags(_: list[str]) -> None:
    """Check the paths of the flags, before JAX starts."""
    cli.given_path("--checkpoint", FLAGS.checkpoint)
    cli.check_folder("--out", cli.given_path("--out", FLAGS.out))
    if FLAGS.root is not None:
        cli.given_path("--root", FLAGS.root)


def main(_: list[str]) -> None:
    """Run with the flags of the command line."""
    workdir, out = cli.given_path("--checkpoint", FLAGS.checkpoint), cli.given_path("--out", FLAGS.out)
    stored = embed(workdir, out, FLAGS.data, FLAGS.root, FLAGS.parts, FLAGS.batch, FLAGS.workers)
    if jax.process_index() == 0:
        n, d = stored.embeddings.shape
        print(f"{out}: {n} embeddings of {d} dimensions, step {stored.about['step']} of {workdir}")


def define_flags() -> None:
    """The flags of the command."""
    flags.DEFINE_string("checkpoint", None, "Workdir of the run.", required=True)
    flags.DEFINE_string("out", None, "Folder for the embeddings; new, or one to resume.", required=True)
    flags.DEFINE_string("data", None, "Name of a data set; by default the one of the run.")
    flags.DEFINE_string("root", None, "Folder of the data set.")
    flags.DEFINE_multi_enum("parts", [*PARTS], [*PARTS], "Part of the data set; may be given twice.")
    flags.DEFINE_integer("batch", 128, "Images at a time.", lower_bound=1, upper_bound=2**20)
    flags.DEFINE_integer(
        "workers", 0, "Processes that read images; 0: threads.", lower_bound=0, upper_bound=cli.MAX_WORKERS
    )


COMMAND = cli.Command(
    main,
    define_flags,
    lower="--batch",
    interrupted=RESUMES,
    ended=RESUMES,
    check=check_flags,
    distributed=True,
)

if __name__ == "__main__":
    cli.launch(COMMAND)
