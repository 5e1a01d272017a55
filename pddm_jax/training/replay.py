"""Records of diverged steps: state and batch in an .npz file, and a search for non-finite numbers."""

import errno
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from pddm_jax.losses.objectives import Logs, Loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.system.errors import reason
from pddm_jax.system.files import replacing
from pddm_jax.system.regular import open_regular
from pddm_jax.training.state import TrainState
from pddm_jax.training.step import loss_of_batch
from pddm_jax.types import Batch

STATE = "state"


class StepRecord(NamedTuple):
    """The state and the batch of a step, to run it again.

    Attributes:
        about: the config of the run, the step, the logs that were not finite, and package versions.
        leaves: the arrays of the state before the step, by their path in it.
        batch: of all processes together.
    """

    about: dict[str, Any]
    leaves: dict[str, np.ndarray]
    batch: Batch

    def state(self, like: TrainState) -> TrainState:
        """The state before the step, in the structure and sharding of `like`.

        Raises:
            ValueError: the record holds a state of another shape.
        """

        def leaf(path: tuple[Any, ...], expected: jax.Array) -> jax.Array:
            name = STATE + jax.tree_util.keystr(path)
            found = self.leaves.get(name)
            if found is None or (found.shape, found.dtype) != (expected.shape, expected.dtype):
                raise ValueError(
                    f"the record has no {name} of shape {expected.shape} and type {expected.dtype}"
                )
            return jax.device_put(found, expected.sharding)

        return jax.tree_util.tree_map_with_path(leaf, like)


def write_record(path: Path, about: dict[str, Any], state: TrainState, batch: Batch) -> None:
    """Write a record atomically, without pickle."""
    leaves = {
        STATE + jax.tree_util.keystr(name): np.asarray(leaf)
        for name, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with replacing(path) as part:
        arrays: dict[str, Any] = {"about": text, "images": batch.images, "labels": batch.labels, **leaves}
        np.savez(part, **arrays)


def read_record(path: Path) -> StepRecord:
    """Read a record.

    Raises:
        OSError: there is no such file.
        ValueError: the file is no record, or is damaged.
    """
    with open_regular(path) as opened:
        try:
            with zipfile.ZipFile(opened) as members:
                arrays = dict(_arrays(members, os.fstat(opened.fileno()).st_size))
            about = _about(arrays.pop("about"))
            batch = Batch(arrays.pop("images"), arrays.pop("labels"))
            if 4 * about["classes"] > sum(leaf.nbytes for leaf in arrays.values()):
                raise ValueError("its number of classes does not match its arrays")
        except Exception as error:  # zipfile and NumPy raise many types for damaged files
            of_machine = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
            if of_machine or isinstance(error, MemoryError):
                raise
            raise ValueError(
                f"{path} is not a record of a diverged step, or is damaged ({reason(error)})"
            ) from error
    return StepRecord(about, arrays, batch)


def _arrays(members: zipfile.ZipFile, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an uncompressed .npz file of `size` bytes; each member is checked before it is read."""
    found = members.infolist()
    names = [member.filename for member in found]
    if len({*names}) < len(names) or sum(member.file_size for member in found) > size:
        raise ValueError("its members overlap")
    for member in found:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} is compressed")
        with members.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"{member.filename} has .npy format {version}, expected (1, 0)")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if dtype.hasobject or file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
                raise ValueError(f"{member.filename} does not have the size that its header states")
        with members.open(member) as file:  # to the end, so that the checksum is compared
            yield member.filename.removesuffix(".npy"), np.lib.format.read_array(file)


def _about(text: np.ndarray) -> dict[str, Any]:
    """The checked fields about the run, with defaults for fields that old records lack."""
    fields = json.loads(text.tobytes())
    if not isinstance(fields, dict) or not isinstance(fields.get("config"), dict):
        raise ValueError("its config is missing")
    about: dict[str, Any] = {"not_finite": {}, "classes": 0, "versions": {}} | fields
    for name, minimum in (("step", 1), ("classes", 0)):
        if type(about.get(name)) is not int or not minimum <= about[name] < 2**31:
            raise ValueError(f"its {name} is missing or not a valid integer")
    for name in ("not_finite", "versions"):
        if not isinstance(about[name], dict) or not all(isinstance(x, str) for x in about[name].values()):
            raise ValueError(f"its {name} has the wrong type")
    return about


def check_batch(batch: Batch, images: int) -> None:
    """Raise a ValueError unless it is a batch of `images` uint8 images with labels."""
    if batch.images.dtype != np.uint8 or batch.images.ndim != 4 or not batch.images.size:
        raise ValueError(
            "its images must be a uint8 array of shape [b, h, w, c], got "
            f"{batch.images.dtype} {list(batch.images.shape)}"
        )
    if batch.labels.dtype.kind != "i" or batch.labels.shape != batch.images.shape[:1]:
        raise ValueError("its labels do not match its images")
    if len(batch.labels) != images:
        raise ValueError(f"its batch has {len(batch.labels)} images, but its config says {images}")


class Finding(NamedTuple):
    """Non-finite numbers of one array of a step.

    Attributes:
        part: of the step, for example "gradients".
        name: within the part; empty if the part is a single array.
        wrong: the number of values that are not finite.
        size: the number of all values.
        largest: the largest absolute value of the finite ones.
    """

    part: str
    name: str
    wrong: int
    size: int
    largest: float


def examine(
    network: EmbeddingNetwork,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    batch: Batch,
) -> tuple[Logs, list[Finding]]:
    """Run one step again and examine all of its arrays, in the order in which they are computed.

    Returns:
        The logs of the step, and a finding for each array.
    """

    @jax.jit
    def parts(state: TrainState, batch: Batch) -> tuple[Logs, dict[str, PyTree]]:
        def loss_fn(params: PyTree) -> tuple[jax.Array, tuple[PyTree, Logs, jax.Array]]:
            return loss_of_batch(network, loss, mesh, params, state.batch_stats, batch)

        (value, (batch_stats, logs, embeddings)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        logs = {"loss": value, "gradient_norm": optax.tree.norm(gradients), **logs}
        logs["parameter_norm"] = optax.tree.norm(params)
        return logs, {
            "parameters before": state.params,
            "batch statistics before": state.batch_stats,
            "optimizer state before": state.opt_state,
            "embeddings": embeddings,
            "loss": {name: x for name, x in logs.items() if not name.endswith("_norm")},
            "gradients": gradients,
            "batch statistics after": batch_stats,
            "optimizer state after": opt_state,
            "parameters after": params,
            "norms": {name: x for name, x in logs.items() if name.endswith("_norm")},
        }

    logs, found = jax.device_get(parts(state, batch))
    return logs, [finding for part in PARTS for finding in _look(part, found[part])]


PARTS = (
    *("parameters before", "batch statistics before", "optimizer state before", "embeddings", "loss"),
    *("gradients", "batch statistics after", "optimizer state after", "parameters after", "norms"),
)
"""Parts of a step, in the order in which they are computed."""


def _look(part: str, tree: PyTree) -> Iterator[Finding]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        x = np.asarray(leaf, np.float64)
        finite = x[np.isfinite(x)]
        name = "/".join(
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
        )
        yield Finding(part, name, x.size - finite.size, x.size, float(np.abs(finite).max(initial=0.0)))


def report(findings: list[Finding], most: int = 8) -> str:
    """One line per part of the step, followed by its arrays that are not finite."""
    lines = []
    for part in dict.fromkeys(finding.part for finding in findings):
        arrays = [finding for finding in findings if finding.part == part]
        wrong = [finding for finding in arrays if finding.wrong]
        largest = max(arrays, key=lambda finding: finding.largest)
        where = f" in {largest.name}" if largest.name else ""
        summary = f"{len(wrong)} of {len(arrays)} arrays not finite" if wrong else "finite"
        lines.append(f"{part:24} {summary}; largest {largest.largest:.3g}{where}")
        lines += [f"{'':26}{x.name or part}: {x.wrong} of {x.size} numbers" for x in wrong[:most]]
        if len(wrong) > most:
            lines.append(f"{'':26}and {len(wrong) - most} more")
    first = next((finding for finding in findings if finding.wrong), None)
    if first is None:
        return "\n".join([*lines, "all is finite here"])
    return "\n".join([*lines, f"not finite first: {first.part}{f', {first.name}' if first.name else ''}"])
