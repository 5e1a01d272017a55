"""PDDM scores against their formula in 80-bit floats; mining against loops."""

from functools import cache
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import pddm_jax
from tests.drills.fuzz_arrays import (
    HIDDEN,
    LABEL_KINDS,
    _arrays,
    distances,
    embeddings,
    expect_refusal,
    expect_value,
    finite,
    labels_of,
    refused_labels,
    wide,
)
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.helpers.oracles import mine as mine_oracle


@cache
def unit(d, seed=0):
    """Parameters of a unit of this width, in NumPy."""
    module = pddm_jax.PDDM(hidden=HIDDEN, joint=HIDDEN)
    x = jnp.zeros((1, d))
    return jax.tree.map(np.asarray, module.init(jax.random.key(seed), x, x)["params"])


def pddm_scores(params, x, y):
    """S [n, m] in 80 bits, and whether a branch is within roundings of zero."""
    p = {name: {k: wide(v) for k, v in leaf.items()} for name, leaf in params.items()}

    def branch(z, name):
        out = np.maximum(z @ p[name]["kernel"] + p[name]["bias"], 0)
        length = np.sqrt(np.square(out).sum(axis=-1, keepdims=True))
        return np.where(length > 1e-12, out / np.where(length > 0, length, 1), 0), length[..., 0]

    x, y = wide(x)[:, None], wide(y)[None]
    u, a = branch(np.abs(x - y), "difference")
    v, b = branch((x + y) / 2, "mean")
    c = np.maximum(np.concatenate([u, v], axis=-1) @ p["joint"]["kernel"] + p["joint"]["bias"], 0)
    size = np.maximum(np.abs(x), np.abs(y)).max(axis=-1) if x.shape[-1] else np.zeros(a.shape)
    doubt = (a < 1e-3 * size + 1e-9) | (b < 1e-3 * size + 1e-9)
    return (c @ p["score"]["kernel"])[..., 0] + p["score"]["bias"][0], doubt


def check_scores(case):
    function, array, other, layers = case
    x = embeddings(*array)
    y = embeddings(*((other, *array[1:5], array[5] + 3, ""))) if other >= 0 else None
    params = unit(x.shape[1] + (layers == "wide"))
    if layers == "missing":
        params = {name: leaf for name, leaf in params.items() if name != "joint"}
    elif layers == "nothing":
        params = None
    elif layers == "nan":
        params = {**params, "score": {**params["score"], "bias": np.full(1, np.nan, np.float32)}}
    elif layers == "flat":
        params = {**params, "mean": params["mean"]["kernel"]}
    elif layers == "float64":
        params = jax.tree.map(np.float64, params)
    if function == "pair_scores":
        y = x if y is None else embeddings(len(x), *array[1:5], array[5] + 3, "")
        outcome = attempt(lambda: pddm_jax.pair_scores(params, x, y), ("params", "x ", "y "))
    else:
        outcome = attempt(lambda: pddm_jax.score_matrix(params, x, y), ("params", "x ", "y "))
    if layers in ("wide", "missing", "nothing", "flat"):
        return expect_refusal(outcome, f"parameters {layers}")
    scores = np.asarray(expect_value(outcome))
    if scores.dtype != np.float32:
        raise Wrong(f"scores of {scores.dtype}")
    with np.errstate(all="ignore"):
        a, b = (np.asarray(z).astype(np.float32) for z in (x, x if y is None else y))
    bad = ~np.isfinite(a).all(axis=1)[:, None] | ~np.isfinite(b).all(axis=1)[None] | (layers == "nan")
    with np.errstate(all="ignore"):
        right, doubt = pddm_scores(
            params if layers != "nan" else unit(x.shape[1]), np.nan_to_num(a), np.nan_to_num(b)
        )
    if function == "pair_scores":
        bad, right, doubt = (np.diagonal(np.broadcast_to(z, right.shape)) for z in (bad, right, doubt))
    if scores.shape != right.shape:
        raise Wrong(f"shape {scores.shape} for {right.shape}")
    if not np.isnan(scores[np.broadcast_to(bad, scores.shape)]).all():
        raise Wrong("a score of what is not finite")
    size = max(np.abs(a[np.isfinite(a)]).max(initial=0), np.abs(b[np.isfinite(b)]).max(initial=0))
    sure = ~bad & ~doubt
    if size < 1e17:
        if not (np.abs(scores - right.astype(float))[sure] <= 2e-3).all():
            raise Wrong(f"scores off by {np.nanmax(np.abs(scores - right.astype(float))[sure])}")
        if not np.isfinite(scores[np.broadcast_to(~bad, scores.shape)]).all():
            raise Wrong("a score that is not finite of what is")
    if function == "score_matrix" and y is None and not np.array_equal(scores, scores.T, equal_nan=True):
        raise Wrong("not symmetric")
    return settled(outcome)


SCORES = Target(
    "scores",
    st.tuples(
        st.sampled_from(("pair_scores", "score_matrix")),
        _arrays(),
        st.sampled_from((-1, -1, 0, 1, 12)),
        st.sampled_from(
            ("good", "good", "good", "good", "wide", "missing", "nothing", "nan", "flat", "float64")
        ),
    ),
    check_scores,
)
SCOPES = ("batch", "anchor", "positive", "positive", "all", None, 3, ["batch"], "Batch")
SIZES = (None, None, None, 0, 1, 5, 100, -1, 1.5, "2", True, 2**31)


def check_mining(case):
    array, kind, per, size, fused = case
    x = embeddings(*array)
    labels, plain = labels_of(kind, len(x), array[5])
    params = unit(x.shape[1])
    words = "scores", "labels", "per", "size", "embeddings", "params", "scope"
    if fused:
        scores = np.asarray(pddm_jax.score_matrix(params, x))
        outcome = attempt(lambda: pddm_jax.mine_quadruplets_fused(params, x, labels, per, size), words)
    else:
        with np.errstate(all="ignore"):
            scores = (
                -distances(x, x).astype(np.float64).astype(np.float32)
                if finite(x)
                else np.full((len(x),) * 2, np.nan)
            )
        outcome = attempt(lambda: pddm_jax.mine_quadruplets(scores, labels, per, size), words)
    if per not in ("batch", "anchor", "positive") if isinstance(per, str) else True:
        return expect_refusal(outcome, f"per {per!r}")
    count = isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**31
    if size is not None and (not count or per != "positive"):
        return expect_refusal(outcome, f"size {size!r} with {per}")
    if plain is None:
        return refused_labels(outcome, kind, x)
    off = ~np.eye(len(x), dtype=bool)
    with np.errstate(over="ignore"):
        narrow = np.asarray(x).astype(np.float32)  # PDDM scores are computed in float32
    if not np.isfinite(scores[off]).all() or not finite(narrow if fused else x):
        if per == "batch" and not fused and outcome.error is None:
            return settled(outcome)
        if len(x) == 0 or outcome.error is not None:
            return settled(outcome)
        if np.isfinite(scores[off]).all():
            return (
                settled(outcome)
                if not fused or len(x) < 1
                else expect_refusal(outcome, "what is not finite")
            )
        return expect_refusal(outcome, "scores that are not finite")
    found = [np.asarray(part) for part in expect_value(outcome)]
    mined = [tuple(int(p[s]) for p in found[:4]) for s in np.flatnonzero(found[4])]
    right = mine_oracle(np.where(off, scores, 0), plain, per)
    if per == "positive" and size is not None:
        pairs = [(i, j) for i, j in combinations(range(len(x)), 2) if plain[i] == plain[j]][:size]
        right = [quad for quad in right if quad[:2] in pairs]
    slots = {
        "batch": 1,
        "anchor": len(x),
        "positive": len(x) * (len(x) - 1) // 2 if size is None else size,
    }[per]
    if found[0].shape != (slots,):
        raise Wrong(f"{found[0].shape} slots for {slots}")
    if mined != right:
        raise Wrong(f"{mined[:6]} for {right[:6]}")
    return settled(outcome)


MINING = Target(
    "mining",
    st.tuples(
        _arrays(),
        LABEL_KINDS,
        st.one_of(st.sampled_from(SCOPES[:4]), st.sampled_from(SCOPES)),
        st.sampled_from(SIZES),
        st.booleans(),
    ),
    check_mining,
    2,
)

TARGETS = SCORES, MINING
