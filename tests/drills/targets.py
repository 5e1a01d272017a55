"""What is disturbed: commands that write a folder, and what an undisturbed one leaves."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pddm_jax.data.storage.records import check_shards, open_shard, read_index
from pddm_jax.training.writer import read_rows
from tests.drills import material

VARYING = ("seconds", "images_per_second", "versions", "sha256")


@dataclass(frozen=True)
class Target:
    """A kind of command.

    Attributes:
        name: of the kind.
        command: `command(base, folder)`: the command that writes `folder`; `base` holds what it reads.
        left: `left(folder)`: what a finished one has left, as a value that undisturbed ones share; raises
            where it is not whole.
        whole: `whole(folder)`: raises where a file under its final name is not whole.
        events: patterns of paths whose appearing is a moment to strike at, relative to `folder`'s parent.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    left: Callable[[Path], object]
    whole: Callable[[Path], None]
    events: tuple[str, ...]


def lasting(row: dict) -> dict:
    """Without what differs between runs that are equal."""
    return {name: value for name, value in row.items() if name not in VARYING}


def left_by_run(folder: Path) -> object:
    """Results and rows of a run."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return lasting(results), [lasting(row) for row in read_rows(folder / "metrics.jsonl")]


def whole_run(folder: Path) -> None:
    """Raise where a file of a run, which may be unfinished, is there but not whole."""
    for name, key in (("results.json", "params_sha256"), ("config.json", "train")):
        if (folder / name).exists():
            assert key in json.loads((folder / name).read_text(encoding="utf-8")), name
    steps = [
        (row["step"], "loss" in row) for row in read_rows(folder / "metrics.jsonl")
    ]  # raises where a line within is cut
    assert len({*steps}) == len(steps), "metrics.jsonl has a step twice"
    for name in ("convergence.png", "gallery.png"):
        if (folder / name).exists():
            assert (folder / name).read_bytes().rstrip()[-8:-4] == b"IEND", name
    if (folder / "report.html").exists():
        assert (folder / "report.html").read_bytes().rstrip().endswith(b"</html>")


def left_by_prepare(folder: Path) -> object:
    """Index and all bytes of prepared records."""
    index = read_index(folder)
    check_shards(folder, index)
    records = []
    for shard in index.shards:
        reader = open_shard(folder / shard.file)
        assert reader.num_records() == shard.images, shard.file
        records += reader.read([*range(shard.images)])
    assert not [*folder.glob(".*-*")], "left over"
    return index.names, index.labels.tolist(), index.class_names, records


def whole_prepare(folder: Path) -> None:
    """Raise where a shard or the index is there but not whole."""
    for path in folder.glob("images-*"):
        reader = open_shard(path)
        assert reader.num_records() > 0, path.name
        reader.read([*range(reader.num_records())])
    if (folder / "pddm_records.json").exists():
        left_by_prepare(folder)


def left_by_embed(folder: Path) -> object:
    """Embeddings, with what they belong to."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    arrays = [np.load(folder / f"{name}.npy") for name in ("embeddings", "labels", "parts")]
    assert np.isfinite(arrays[0]).all(), "rows are not finite"
    assert np.abs(arrays[0]).sum(1).all(), "rows are missing"
    names = (folder / "names.txt").read_text(encoding="utf-8")
    assert not (folder.with_name(f".{folder.name}.part")).exists(), "left over"
    assert not (folder / "done.json").exists(), "left over"
    return about["params_sha256"], about["step"], [x.tolist() for x in arrays], names


def whole_embed(folder: Path) -> None:
    """Raise where the folder is there but not whole."""
    if folder.exists():
        left_by_embed(folder)


def left_by_render(folder: Path) -> object:
    """The rendered images."""
    (path,) = folder.iterdir()
    with np.load(path) as stored:
        return [(name, stored[name].tolist()) for name in ("labels", "characters")], stored[
            "images"
        ].tobytes()


def whole_render(folder: Path) -> None:
    """Raise where a rendering is there but not whole."""
    for path in folder.glob("[!.]*.npz"):
        with np.load(path) as stored:
            assert len(stored["images"]) == len(stored["labels"])


RUN = Target(
    "run",
    lambda base, folder: material.train(base / "images", folder),
    left_by_run,
    whole_run,
    (
        *("run/.lock", "run/checkpoints", "run/tensorboard/*", "run/metrics.jsonl", "run/config.json"),
        *("run/checkpoints/*6*tmp*", "run/checkpoints/6", "run/checkpoints/*12*tmp*/default"),
        *("run/checkpoints/12", "run/checkpoints/*18*tmp*/record", "run/checkpoints/*24*tmp*"),
        *("run/checkpoints/24", "run/mining.json"),
        *("run/.*-convergence.png", "run/convergence.png", "run/.*-gallery.png", "run/gallery.png"),
        *("run/.*-report.html", "run/report.html"),
        *("run/.*-results.json", "run/results.json"),
    ),
)
GLYPHS = Target(
    "glyphs",
    lambda base, folder: material.render(folder),
    left_by_render,
    whole_render,
    ("glyphs", "glyphs/.*.npz", "glyphs/*.npz"),
)
PREPARE = Target(
    "prepare",
    lambda base, folder: material.prepare(base / "images", folder),
    left_by_prepare,
    whole_prepare,
    (
        *("prepare/.lock", "prepare/.*-images-*", "prepare/images-00002*", "prepare/images-00005*"),
        "prepare/*.json",
    ),
)
EMBED = Target(
    "embed",
    lambda base, folder: material.embed(base / "run", folder),
    left_by_embed,
    whole_embed,
    (
        *(".embed.lock", ".embed.part", ".embed.part/labels.npy", ".embed.part/embeddings.npy"),
        *(".embed.part/done.json", ".embed.part/about.json", "embed"),
    ),
)
TARGETS = {target.name: target for target in (RUN, GLYPHS, PREPARE, EMBED)}
