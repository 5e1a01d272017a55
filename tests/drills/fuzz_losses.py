"""Losses against their formulas in 80-bit floats, and their gradients."""

import math
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import pddm_jax
from tests.drills.fuzz_arrays import (
    BAD_LABELS,
    LABEL_KINDS,
    WIDE,
    _arrays,
    distances,
    embeddings,
    expect_refusal,
    expect_value,
    labels_of,
    refused_labels,
    wide,
)
from tests.drills.fuzz_core import Target, Wrong, attempt, settled


def log_sum_exp(values):
    top = max(values)
    return (
        top + WIDE(math.log(float(sum(np.exp(WIDE(v) - top) for v in values))))
        if np.isfinite(float(top))
        else top
    )


class Pairs:
    """Distances, positives and negatives of a batch in 80 bits."""

    def __init__(self, x, labels):
        self.x = wide(x)
        self.squared = distances(self.x, self.x)
        self.plain = np.sqrt(self.squared)
        self.n = len(labels)
        self.positives = [
            [j for j in range(self.n) if j != i and labels[j] == labels[i]] for i in range(self.n)
        ]
        self.negatives = [[j for j in range(self.n) if labels[j] != labels[i]] for i in range(self.n)]


def mean(values):
    return sum(values, WIDE(0)) / len(values) if values else WIDE(0)


def contrastive(p, margin=1.0):
    both = [*combinations(range(p.n), 2)]
    positive = [p.squared[i, j] for i, j in both if j in p.positives[i]]
    negative = [max(WIDE(0), WIDE(margin) - p.plain[i, j]) ** 2 for i, j in both if j in p.negatives[i]]
    return mean(positive) + mean(negative), False


def triplet(p, margin=0.2, mining="semihard"):
    hinges, doubt = [], False
    for a in range(p.n):
        if not p.positives[a] or not p.negatives[a]:
            continue
        d = p.squared[a]
        if mining == "hard":
            hinges.append(max(WIDE(0), margin + max(d[p.positives[a]]) - min(d[p.negatives[a]])))
            continue
        for q in p.positives[a]:
            if mining == "all":
                terms = [margin + d[q] - d[n] for n in p.negatives[a]]
                doubt |= any(abs(t) < 1e-5 * (margin + d[q] + max(d)) for t in terms)
                hinges += [t for t in terms if t > 0]
            else:
                doubt |= any(abs(d[q] - d[n]) < 1e-5 * (d[q] + d[n]) for n in p.negatives[a])
                farther = [d[n] for n in p.negatives[a] if d[n] > d[q]]
                hinges.append(
                    max(WIDE(0), margin + d[q] - (min(farther) if farther else max(d[p.negatives[a]])))
                )
    return mean(hinges), doubt


def lifted(p, margin=1.0):
    total, pairs = WIDE(0), 0
    for i in range(p.n):
        for j in p.positives[i]:
            if j < i or not p.negatives[i]:
                continue
            inside = [margin - p.plain[i, k] for k in p.negatives[i]] + [
                margin - p.plain[j, k] for k in p.negatives[j]
            ]
            total += max(WIDE(0), log_sum_exp(inside) + p.plain[i, j]) ** 2
            pairs += 1
    return (total / (2 * pairs) if pairs else WIDE(0)), False


def multi_similarity(p, alpha=2.0, beta=50.0, base=0.5, margin=0.1):
    s, terms, doubt = p.x @ p.x.T, [], False
    for i in range(p.n):
        if not p.positives[i] or not p.negatives[i]:
            terms.append(WIDE(0))
            continue
        high, low = max(s[i, p.negatives[i]]), min(s[i, p.positives[i]])
        size = WIDE(1) + np.abs(p.x[i]) @ np.abs(p.x).T.max(axis=1)
        edges = [s[i, j] - margin - high for j in p.positives[i]] + [
            s[i, k] + margin - low for k in p.negatives[i]
        ]
        doubt |= any(abs(edge) < 1e-5 * size for edge in edges)
        pull = [-alpha * (s[i, j] - base) for j in p.positives[i] if s[i, j] - margin < high]
        push = [beta * (s[i, k] - base) for k in p.negatives[i] if s[i, k] + margin > low]
        terms.append(log_sum_exp([WIDE(0), *pull]) / alpha + log_sum_exp([WIDE(0), *push]) / beta)
    return mean(terms), doubt


LOSSES = {
    "contrastive": (pddm_jax.contrastive_loss, contrastive),
    "triplet_all": (partial(pddm_jax.triplet_loss, mining="all"), partial(triplet, mining="all")),
    "triplet_semihard": (pddm_jax.triplet_loss, triplet),
    "triplet_hard": (partial(pddm_jax.triplet_loss, mining="hard"), partial(triplet, mining="hard")),
    "lifted": (pddm_jax.lifted_structure_loss, lifted),
    "multi_similarity": (pddm_jax.multi_similarity_loss, multi_similarity),
}
WORDS = "embeddings", "labels", "margin", "classes", "kernel", "temperature", "params"
MARGINS = (None, None, None, 0.0, -1.0, 3, 1e30, "nan", "inf", "text", True, (0.1, 0.2))


def check_loss(case):
    name, array, kind, margin, gradient = case
    x = embeddings(*array)
    labels, plain = labels_of(kind, len(x), array[5])
    function, oracle = LOSSES[name]
    given = {} if margin is None else {"margin": float(margin) if margin in ("nan", "inf") else margin}
    if isinstance(margin, tuple):
        given["margin"] = np.array(margin)
    outcome = attempt(lambda: function(x, labels, **given), WORDS)
    if plain is None:
        return refused_labels(outcome, kind, x)
    if (margin in ("text", True) and type(margin) in (str, bool)) or isinstance(margin, tuple):
        return expect_refusal(outcome, f"margin {margin!r}")
    loss = expect_value(outcome)
    if loss.shape != () or loss.dtype != jnp.float32:
        raise Wrong(f"a loss of shape {loss.shape}, {loss.dtype}")
    with np.errstate(all="ignore"):
        narrow = np.asarray(x).astype(np.float32)
    if not np.isfinite(narrow).all():
        if not np.isnan(loss):
            raise Wrong(f"{loss} for what is not finite")
    elif margin not in ("nan", "inf"):
        check_loss_value(name, float(loss), Pairs(narrow, plain), oracle, given)
    if gradient and len(x):
        check_gradient(function, narrow, labels, given, float(loss))
    return settled(outcome)


def check_loss_value(name, loss, pairs, oracle, given):
    with np.errstate(all="ignore"):
        right, doubt = oracle(pairs, **given)
    most = pairs.squared.max(initial=0)
    if name == "multi_similarity" and np.square(pairs.x).sum(axis=1).max(initial=0) > 1e30:
        return  # far from unit length; a dot product may overflow
    if float(right) > 1e38 or most > 1e37 or given.get("margin", 0) > 1e18:
        slack = 1e-3 * abs(float(right)) + 2e-5 * min(float(most), 1e37)
        if math.isfinite(loss) and right < 1e37 and abs(loss - float(right)) > slack:
            raise Wrong(f"{loss} for {right}")
        return
    scale = float(most if name != "multi_similarity" else 1 + np.square(pairs.x).sum(axis=1).max(initial=0))
    scale = min(scale, 1e37) + abs(given.get("margin", 1.0)) * (name != "contrastive" or True)
    slack = 1e-4 * abs(float(right)) + 2e-5 * scale + 1e-37
    if not doubt and not abs(loss - float(right)) <= slack:
        raise Wrong(f"{loss} for {float(right)}")


def check_gradient(function, x, labels, given, loss):
    outcome = attempt(
        lambda: np.asarray(jax.grad(lambda y: function(y, labels, **given))(jnp.asarray(x))), WORDS
    )
    slope = expect_value(outcome)
    if math.isfinite(loss):
        if not np.isfinite(slope).all():
            raise Wrong(f"a loss of {loss} with a gradient that is not finite")
    elif math.isnan(loss) and not np.isnan(slope).all():
        raise Wrong(f"a loss of NaN with a gradient of {slope.ravel()[:4]}")


LOSS = Target(
    "losses",
    st.tuples(
        st.sampled_from(sorted(LOSSES)), _arrays(), LABEL_KINDS, st.sampled_from(MARGINS), st.booleans()
    ),
    check_loss,
    3,
)


def check_softmax(case):
    array, classes, kind, temperature = case
    x = embeddings(*array)
    kernel = np.random.default_rng(array[5]).normal(
        size=(x.shape[1] if kind != "wide" else x.shape[1] + 1, 3)
    ) * 10.0 ** (array[3] if kind == "scaled" else 0)
    rng = np.random.default_rng(array[5])
    numbers = rng.integers(0, 3, len(x)) if classes == "good" else labels_of(classes, len(x), array[5])[0]
    outcome = attempt(lambda: pddm_jax.softmax_loss(kernel, x, numbers, temperature), WORDS)
    numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if kind == "wide" or (numeric and temperature <= 0) or not numeric:
        return expect_refusal(outcome, f"kernel {kind}, temperature {temperature!r}")
    if classes in BAD_LABELS:
        return refused_labels(outcome, classes, x)
    loss = float(expect_value(outcome))
    with np.errstate(all="ignore"):
        narrow, weights = np.asarray(x).astype(np.float32), wide(kernel.astype(np.float32))
    if not np.isfinite(narrow).all() or not np.isfinite(weights.astype(np.float64)).all():
        if math.isfinite(loss):
            raise Wrong(f"{loss} for what is not finite")
        return settled(outcome)
    size = np.abs(wide(narrow)).max(initial=0)
    if (
        classes == "good"
        and len(x)
        and size < 1e30
        and np.abs(weights).max() < 1e18
        and (np.abs(weights).max() > 1e-17)
    ):
        cosines = wide(narrow) @ (weights / np.sqrt(np.square(weights).sum(axis=0))) / WIDE(temperature)
        right = float(mean([log_sum_exp([*row]) - row[c] for row, c in zip(cosines, numbers, strict=True)]))
        if abs(loss - right) > 1e-4 * abs(right) + 1e-4 * float(1 + size / temperature) and right < 1e37:
            raise Wrong(f"{loss} for {right}")
    if not len(x) and loss != 0:
        raise Wrong(f"{loss} of nothing")
    return settled(outcome)


SOFTMAX = Target(
    "softmax",
    st.tuples(
        _arrays(),
        st.sampled_from(("good", "good", "good", *BAD_LABELS)),
        st.sampled_from(("plain", "plain", "scaled", "wide")),
        st.sampled_from((0.05, 0.05, 1, 1e-3, 0, -1, "1", None, True)),
    ),
    check_softmax,
)

TARGETS = LOSS, SOFTMAX
