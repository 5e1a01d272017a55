"""Labelled images from disk to batches: data sets by name, transforms, P x K batches."""

from pddm_jax.data.closed_set import ClosedSet, per_class_mask
from pddm_jax.data.images import Images, Split, hold_out, subset
from pddm_jax.data.load import (
    CLOSED_SETS,
    DATASETS,
    IN_MEMORY,
    PROTOCOLS,
    closed_set_of,
    load,
    load_closed_set,
    load_data,
)
from pddm_jax.data.parts import Parts, load_parts
from pddm_jax.data.pipeline import ordered_batches, train_batches
from pddm_jax.data.sampler import PKSampler
from pddm_jax.data.transforms import make_transform

__all__ = [
    "CLOSED_SETS",
    "DATASETS",
    "IN_MEMORY",
    "PROTOCOLS",
    "ClosedSet",
    "Images",
    "PKSampler",
    "Parts",
    "Split",
    "closed_set_of",
    "hold_out",
    "load",
    "load_closed_set",
    "load_data",
    "load_parts",
    "make_transform",
    "ordered_batches",
    "per_class_mask",
    "subset",
    "train_batches",
]
