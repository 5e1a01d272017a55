"""Globals that a PyTorch pickle may name: the few that describe tensors, and do nothing else."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pddm_jax.networks.pretrained.tensor_layout import BFLOAT16, Layout, Storage, printable

TORCH_DTYPES = {
    "BFloat16Storage": BFLOAT16,
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("<u1"),
    "CharStorage": np.dtype("<i1"),
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "ShortStorage": np.dtype("<i2"),
}


def _layout(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Layout:
    if not (type(storage) is Storage and type(shape) is tuple and type(strides) is tuple):
        raise ValueError("a tensor is not described by a storage, an offset, a shape and strides")
    return Layout(storage, offset, shape, strides)


def _parameter(layout: Any, *_: Any) -> Any:
    return layout


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """An OrderedDict; Python 2 gives its items as a list of lists of two."""
    if (type(pairs) is not list and pairs != ()) or any(type(p) is not list or len(p) != 2 for p in pairs):
        raise ValueError("an OrderedDict is not made of pairs")
    return {dict_key(name): value for name, value in pairs}


def dict_key(value: Any) -> Any:
    """A key of a dict: a string, None, a bool or a small integer.

    Nested tuples take exponential time to hash, and integers from 2^61 on may all have one hash.
    """
    if type(value) is str or value is None or (type(value) in (int, bool) and abs(value) < 2**60):
        return value
    raise ValueError(f"a key of a dict is {printable(value)}, not a string or a small integer")


GLOBALS: dict[str, Callable[..., Any] | np.dtype] = {
    "collections.OrderedDict": _dict,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _layout,
    **{f"torch.{name}": dtype for name, dtype in TORCH_DTYPES.items()},
}
