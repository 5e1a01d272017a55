"""From what is on disk to batches: `load` a split of disjoint classes, `train_batches` of it."""

from pddm_jax.checks import check_choice
from pddm_jax.data import fashion_mnist, glyphs
from pddm_jax.data.images import Images, Split
from pddm_jax.data.pipeline import train_batches
from pddm_jax.data.sampler import PKSampler

__all__ = ["DATASETS", "Images", "PKSampler", "Split", "load", "train_batches"]

DATASETS = {"glyphs": glyphs.load, "fashion_mnist": fashion_mnist.load}


def load(name: str, root: str | None, image_size: int | None, seed: int) -> Split:
    """The data set of a name in `DATASETS`; see its module for root, image_size and errors."""
    check_choice("data.name", name, DATASETS)
    return DATASETS[name](root, image_size, seed)
