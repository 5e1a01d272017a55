"""Embeddings and labels of every kind, as literals, and squared distances in 80-bit floats."""

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.drills.fuzz_core import Wrong, settled

WIDE = np.longdouble  # squares of float64 neither overflow nor underflow in it, on x86
NS, DS = (0, 1, 3, 12), (1, 2, 8)
HIDDEN = 4
KINDS = (
    "normal",
    "offset",
    "duplicates",
    "integers",
    "one-hot",
    "tight",
    "mixed",
    "unit",
    "zero",
    "constant",
)
SCALES = (0, 0, 0, -3, 3, -10, 10, -19, 19, -23, 23, -30, 30, -38, 37, -44, -150, 150, -290, 290)
DTYPES = (
    "float32",
    "float32",
    "float64",
    "float64",
    "float16",
    "jax",
    "bfloat16",
    "int8",
    "int32",
    "int64",
    "uint8",
)
LABELS = (
    "few",
    "few",
    "few",
    "pairs",
    "alone",
    "one",
    "negative",
    "wide",
    "uint64",
    "int8",
    "object",
    "list",
    "jax",
)
BAD_LABELS = (
    "text",
    "floats",
    "nan",
    "bools",
    "short",
    "long",
    "matrix",
    "scalar",
    "none",
    "nested",
    "empty",
)


@st.composite
def _arrays(draw):
    """(n, d, kind, power of ten, dtype, seed, what is not finite)."""
    return (
        draw(st.sampled_from(NS)),
        draw(st.sampled_from(DS)),
        draw(st.sampled_from(KINDS)),
        draw(st.sampled_from(SCALES)),
        draw(st.sampled_from(DTYPES)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from(("", "", "", "", "", "", "nan", "inf", "-inf"))),
    )


def embeddings(n, d, kind, power, dtype, seed, bad):
    """The array that a case tells of."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    if kind == "offset":
        x = x * 1e-4 + rng.choice([1, 30, 1000]) * np.sign(rng.normal(size=(n, 1)) - 0.5)
    elif kind == "duplicates":
        x = x[rng.integers(0, max(1, n // 3), n)] if n else x
    elif kind == "integers":
        x = rng.integers(-3, 4, (n, d)).astype(float)
    elif kind == "one-hot":
        x = np.eye(d)[rng.integers(0, d, n)]
    elif kind == "tight":
        x = 1 + x * 1e-6
    elif kind == "mixed":
        x = x * 10.0 ** rng.integers(-20, 21, (n, 1))
    elif kind == "unit":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    elif kind == "zero":
        x = x * (rng.random((n, 1)) < 0.5)
    elif kind == "constant":
        x = np.ones((n, d))
    x = x * 10.0**power
    if bad and x.size:
        x.flat[rng.integers(x.size)] = float(bad)
    with np.errstate(all="ignore"):
        if dtype == "jax":
            return jnp.asarray(x.astype(np.float32))
        if dtype == "bfloat16":
            return x.astype(jnp.bfloat16)
        if dtype.startswith(("int", "uint")):
            limits = np.iinfo(dtype)
            return np.clip(np.nan_to_num(x * 3), limits.min / 2, limits.max / 2).astype(dtype)
        return x.astype(dtype)


def labels_of(kind, n, seed):
    """Labels of a kind, and the plain integers that they stand for; None where they must be refused."""
    rng = np.random.default_rng(seed + 1)
    plain = rng.integers(0, max(1, n // 3 + 1), n)
    if kind == "pairs":
        plain = rng.permutation(np.arange(n) // 2)
    elif kind == "alone":
        plain = rng.permutation(n)
    elif kind == "one":
        plain = np.zeros(n, int)
    good = {
        "negative": lambda: plain.astype(np.int64) - 2,
        "wide": lambda: plain.astype(np.int64) * 2**32 + 1,
        "uint64": lambda: np.uint64(2**64 - 1) - plain.astype(np.uint64),
        "int8": lambda: (plain - 128 + 100).astype(np.int8),
        "object": lambda: np.array([int(p) * 10**30 - 5 for p in plain], object),
        "list": lambda: [int(p) for p in plain],
        "jax": lambda: jnp.asarray(plain, jnp.int32),
    }
    if kind in good:
        return good[kind](), plain.tolist()
    bad = {
        "text": lambda: np.array([f"c{p}" for p in plain], str),
        "floats": lambda: plain + 0.0,
        "nan": lambda: np.full(n, np.nan),
        "bools": lambda: plain > 0,
        "short": lambda: plain[:-1] if n else np.zeros(1, int),
        "long": lambda: np.append(plain, 0),
        "matrix": lambda: plain[:, None],
        "scalar": lambda: 3,
        "none": lambda: None,
        "nested": lambda: [[1], [1, 2]],
        "empty": lambda: [] if n else [0],
    }
    if kind in bad:
        return bad[kind](), None
    return plain, plain.tolist()


LABEL_KINDS = st.one_of(
    st.sampled_from(LABELS), st.sampled_from(LABELS), st.sampled_from(LABELS + BAD_LABELS)
)


def wide(x):
    return np.asarray(x).astype(np.float64).astype(WIDE) if len(x) else np.zeros(np.shape(x), WIDE)


def distances(queries, gallery):
    """Squared distances [q, g], in 80 bits, of differences in float64: `nearest` promises their order."""
    x, y = (np.asarray(rows).astype(np.float64) for rows in (queries, gallery))
    with np.errstate(all="ignore"):
        return np.square((x[:, None] - y[None]).astype(WIDE)).sum(axis=2)


def finite(x):
    return bool(np.isfinite(np.asarray(x).astype(np.float64)).all())


def expect_refusal(outcome, why):
    if outcome.error is None:
        raise Wrong(f"gives {str(outcome.value)[:120]} for {why}")
    return settled(outcome)


def expect_value(outcome):
    if outcome.error is not None:
        raise Wrong(f"refuses good input: {outcome.error}")
    return outcome.value


def refused_labels(outcome, kind, x):
    """The kind of an outcome with wrong labels; of no image at all they may be of any type."""
    if not len(x) and kind in ("text", "floats", "nan", "bools") and outcome.error is None:
        return settled(outcome)
    return expect_refusal(outcome, f"labels {kind}")
