"""What the drills work on: a few drawn images, and the commands that are disturbed."""

from pathlib import Path

import numpy as np
from PIL import Image

STEPS, EVERY = 24, 6
RUN = {
    "data.image_size": 16,
    "data.classes_per_batch": 2,
    "data.images_per_class": 3,
    "data.val_class_fraction": 0.4,
    "network.embedding_dim": 8,
    "optimizer.schedule": "constant",
    "train.steps": STEPS,
    "train.eval_every": EVERY,
    "train.checkpoint_every": EVERY,
    "train.log_every": EVERY // 2,
}
"""Fields of a run of seconds that has everything: rows, evaluations, checkpoints and a best one."""


def draw(root: Path, classes: int = 12, images: int = 4, size: int = 16) -> Path:
    """A folder of images, one noisy pattern a class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        folder = root / f"class {label:02d}"
        folder.mkdir(parents=True)
        pattern = rng.integers(0, 156, (size, size, 3), dtype=np.uint8)
        for number in range(images):
            pixels = pattern + rng.integers(0, 100, pattern.shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def flags_of(fields: dict) -> list[str]:
    """A config's fields as flags of a command."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


def train(root: Path, workdir: Path, **other) -> list[str]:
    """The command of a run on a folder of images."""
    fields = RUN | {"data.root": root} | {name.replace("__", "."): x for name, x in other.items()}
    return ["experiments.folder", f"--workdir={workdir}", *flags_of(fields)]


def render(cache: Path) -> list[str]:
    """The command that renders the glyphs into a cache, as a run on them does first."""
    return ["tests.drills.render", str(cache)]


def prepare(root: Path, out: Path) -> list[str]:
    """The command that turns the folder of images into records, in several shards."""
    flags = "--source=folder", f"--root={root}", f"--out={out}", "--shard_images=8", "--workers=2"
    return ["pddm_jax.data.prepare", *flags]


def embed(workdir: Path, out: Path) -> list[str]:
    """The command that writes the embeddings of a run's images."""
    return ["pddm_jax.embed", f"--checkpoint={workdir}", f"--out={out}", "--batch=8"]
