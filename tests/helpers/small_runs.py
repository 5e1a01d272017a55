"""Small labelled images and networks for runs from Python, and a program that trains one as told in a file.

python -m tests.helpers.small_runs TASK.json
"""

import json
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from PIL import Image

CLASSES, EACH, HEIGHT, WIDTH = 6, 4, 8, 10
LABELS = np.repeat(np.arange(CLASSES), EACH)
FIELDS = {
    "data.classes_per_batch": 4,
    "data.images_per_class": 2,
    "network.embedding_dim": 4,
    "network.unit_dim": 3,
    "optimizer.warmup": 0,
    "optimizer.schedule": "constant",
}


class Flat(nn.Module):
    """All pixels as features, through one layer."""

    width: int = 6

    @nn.compact
    def __call__(self, images):
        return nn.Dense(self.width)(images.reshape(len(images), -1))


def noisy(channels, seed=0):
    """Images [24, 8, 10, channels] of a noisy pattern for each class; without channels [24, 8, 10]."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, channels) if channels else (HEIGHT, WIDTH)
    patterns = rng.integers(0, 128, (CLASSES, *shape))
    return (patterns[LABELS] + rng.integers(0, 128, (len(LABELS), *shape))).astype(np.uint8)


def write_pngs(root, classes, each, size=(12, 14)):
    """Image files root/<class>/<number>.png, some larger than others."""
    rng = np.random.default_rng(1)
    for label in range(classes):
        (root / f"class {label:02}").mkdir(parents=True)
        pattern = rng.integers(0, 128, (*size, 3))
        for number in range(each):
            pixels = (pattern + rng.integers(0, 128, pattern.shape)).astype(np.uint8)
            enlarged = pixels.repeat(2, axis=number % 2) if number % 3 else pixels
            Image.fromarray(enlarged).save(root / f"class {label:02}" / f"{number}.png")


def leaves(run):
    """The arrays of a run by name: parameters, batch statistics and step."""
    state = {"params": run.state.params, "batch_stats": run.state.batch_stats, "step": run.state.step}
    found, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def assert_equal_bits(run, other):
    ours, theirs = leaves(run), leaves(other)
    assert [*ours] == [*theirs]
    for name, leaf in ours.items():
        assert leaf.dtype == theirs[name].dtype
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


def main(task):
    """Train on files, and embed files by this and by another run."""
    import pddm_jax

    task = json.loads(Path(task).read_text(encoding="utf-8"))
    run = pddm_jax.train(**task["train"])
    np.save(task["out"], pddm_jax.load(task["of"]).embed(task["embed"]))
    np.savez(task["state"], **leaves(run))


if __name__ == "__main__":
    main(*sys.argv[1:])
