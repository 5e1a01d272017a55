"""Files of weights, as PyTorch and safetensors write them, whole and damaged."""

import pickle
import struct
import zipfile
from functools import cache

import numpy as np
from hypothesis import strategies as st

from pddm_jax.networks.pretrained.tensors import read_tensors
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.drills.fuzz_mutate import DAMAGE, damaged
from tests.drills.fuzz_places import fresh


def storage(values):
    return np.asarray(values, "<f4").tobytes()


@cache
def weights(form):
    """A file of two tensors, as PyTorch or safetensors write it, and those tensors."""
    from tests.helpers import hostile_weights as made

    good = made.state(made.tensor())
    if form == "zip":
        return made.stored(good, storage(range(4)))
    if form == "deflated":
        return made.stored(good, storage(range(4)), zipfile.ZIP_DEFLATED)
    if form == "legacy":
        return made.HEAD + good + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + storage(range(4))
    return made.safetensors(
        {"a": made.entry(), "b": made.entry("F16", (2, 2), (16, 24))}, storage(range(6))
    )


def check_weights(case):
    form, operations, within = case
    whole = weights(form)
    content = damaged(whole, operations, within)
    path = fresh() / "a file.pth"
    path.write_bytes(content)
    outcome = attempt(lambda: read_tensors(path), (str(path),))
    if content == whole and (
        outcome.error is not None or outcome.value["a"].ravel().tolist() != [0, 1, 2, 3]
    ):
        raise Wrong(f"{outcome} of a good file")
    return settled(outcome)


WEIGHTS = Target(
    "weights",
    st.tuples(
        st.sampled_from(("zip", "deflated", "legacy", "safetensors")), DAMAGE, st.sampled_from((0, 64, 200))
    ),
    check_weights,
    8,
    memory=200 * 2**20,
)

TARGETS = (WEIGHTS,)
