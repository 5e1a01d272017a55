"""SHA-256 digests of the arrays of a train state."""

import hashlib
from typing import TypedDict

import jax
import numpy as np
from jaxtyping import PyTree


class Digest(TypedDict):
    """The shape and type of an array, and the SHA-256 of its bytes in C order."""

    shape: list[int]
    dtype: str
    sha256: str


def digests(tree: PyTree) -> dict[str, Digest]:
    """The digest of each array of a tree, by its path in the tree.

    Waits for the arrays, each of which must be replicated in every process. About 0.2 s for 100 MB.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _digest(leaf) for path, leaf in leaves}


def shapes(tree: PyTree) -> dict[str, tuple[list[int], str]]:
    """The shape and type of each array of a tree, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): ([*leaf.shape], str(leaf.dtype)) for path, leaf in leaves}


def _digest(leaf: jax.Array | np.ndarray) -> Digest:
    # Not np.asarray(leaf): JAX would cache the copy and could no longer donate the array.
    array = np.asarray(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)
    sha256 = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()
    return Digest(shape=[*array.shape], dtype=str(array.dtype), sha256=sha256)


def digest_of(params: PyTree, batch_stats: PyTree) -> str:
    """SHA-256 over all parameters and batch statistics, in the order of their names."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, batch_stats)):
        sha.update(jax.tree_util.keystr(path).encode())
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()
