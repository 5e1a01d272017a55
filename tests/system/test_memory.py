"""Saving checkpoints leaks no memory for each array."""

import gc
import sys

import jax
import numpy as np
from orbax.checkpoint._src.serialization import tensorstore_utils

from pddm_jax.sharding import data_mesh, replicated
from pddm_jax.system import memory
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.state import TrainState

ARRAYS = 120


def test_saving_keeps_no_objects_for_each_array(tmp_path):
    params = {f"layer {number}": np.zeros(4, np.float32) for number in range(ARRAYS)}
    state = jax.device_put(TrainState(np.int32(0), params, {}, {}), replicated(data_mesh()))

    def save(steps):
        for step in steps:
            checkpoints.save(step, state)
        checkpoints.wait()
        gc.collect()
        return sys.getallocatedblocks()

    with Checkpoints(tmp_path / "checkpoints", 2) as checkpoints:
        before = save(range(1, 11))
        kept = (save(range(11, 21)) - before) / 10
    assert kept < ARRAYS, kept  # about 50 in all; 4 for each array if `to_json` is called for each


def test_specifications_are_those_of_orbax(tmp_path):
    memory.stop_leaks()
    memory.stop_leaks()
    original = tensorstore_utils._build_ocdbt_kvstore_tspec._of_folder.__wrapped__
    ours = memory._OncePerFolder(original)
    options = tensorstore_utils.OcdbtKvStoreWriteOptions(tensorstore_utils.OcdbtWriteMode.WRITE)
    for folder in str(tmp_path), f"{tmp_path}/other":
        for given in {}, {"write_options": options}, {"name": "a"}, {"name": "b", "write_options": options}:
            found = ours(directory=folder, **given)
            assert found == original(directory=folder, **given)
            found["base"]["path"] = "changed"
            assert ours(directory=folder, **given)["base"]["path"] != "changed"
    assert ours._of_folder.cache_info().misses == 4
