"""The images of a run by their use: for training, for evaluation during it, kept for the end."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pddm_jax.data.closed_set import ClosedSet, per_class_mask
from pddm_jax.data.images import Images, Split, hold_out, subset
from pddm_jax.data.load import load_data


class Parts(NamedTuple):
    """The images of a data set by what a run does with them."""

    split: Split | ClosedSet
    train: Images
    evaluated: Images  # during training: of the validation classes, or the test images
    seen: Images | None  # of the training classes, kept for the end


def load_parts(fields: Mapping[str, Any], *, closed_set: bool, seed: int) -> Parts:
    """The data set of a config's group `data`, divided by `val_class_fraction` and `seen_test`.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: as `load_data`; or a part would have no image.
    """
    split = load_data(fields, closed_set=closed_set, seed=seed)
    train, evaluated, seen = split.train, split.test, None
    if fields["val_class_fraction"]:
        train, evaluated = hold_out(split.train, fields["val_class_fraction"], seed)
    if fields["seen_test"]:
        kept = per_class_mask(train, fields["seen_test"], seed)
        if not kept.any():
            raise ValueError(
                f"data.seen_test of {fields['seen_test']} selects no image: this share of each class "
                "rounds down to 0 images; raise it"
            )
        seen = subset(train, np.flatnonzero(kept))
        train = subset(train, np.flatnonzero(~kept))
    return Parts(split, train, evaluated, seen)
