"""Search and measures against rankings in 80-bit floats."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

import pddm_jax
from tests.drills.fuzz_arrays import (
    LABEL_KINDS,
    _arrays,
    distances,
    embeddings,
    expect_refusal,
    expect_value,
    finite,
    labels_of,
    refused_labels,
)
from tests.drills.fuzz_core import Target, Wrong, attempt, settled

K = st.one_of(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from((0, -1, 13, 2**31, 2**40, 10**30, 1.0, 2.5, "2", None, True, (1,), "np3")),
)


def real_k(k):
    return np.int64(3) if k == "np3" else k


def check_nearest(case):
    queries, gallery, k = embeddings(*case[0]), embeddings(*case[1]), real_k(case[2])
    outcome = attempt(
        lambda: [np.asarray(x) for x in pddm_jax.nearest(queries, gallery, k)],
        ("queries", "gallery", "k ", "k,"),
    )
    whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
    if queries.shape[1] != gallery.shape[1] or not whole or not 1 <= k <= len(gallery):
        return expect_refusal(outcome, f"widths {queries.shape}, {gallery.shape} or k {k!r}")
    if not finite(queries) or not finite(gallery):
        return expect_refusal(outcome, "what is not finite")
    scores, index = expect_value(outcome)
    check_order(distances(queries, gallery), scores, index, k, exact_ties(case[0], case[1]))
    return settled(outcome)


def exact_ties(*cases):
    """Whether equal distances are equal in float64 too: integers, or rows that are alike."""
    return all(case[2] in ("integers", "one-hot", "constant") and case[3] == 0 for case in cases)


def check_order(d, scores, index, k, tied_exactly):
    if index.shape != (len(d), k) or scores.shape != index.shape:
        raise Wrong(f"shapes {scores.shape}, {index.shape}")
    if scores.dtype != np.float32 or index.dtype != np.int32:
        raise Wrong(f"types {scores.dtype}, {index.dtype}")
    for row, (given, found) in enumerate(zip(d, index, strict=True)):
        if len({*found.tolist()}) != k or found.min(initial=0) < 0 or found.max(initial=0) >= len(given):
            raise Wrong(f"row {row}: indices {found}")
        order = np.lexsort((np.arange(len(given)), given))[:k]
        if tied_exactly and (found != order).any():
            raise Wrong(f"row {row}: {found} for {order}")
        ours, theirs = given[found], given[order]
        if (np.abs(ours - theirs) > 1e-12 * theirs).any():
            raise Wrong(f"row {row}: {found} of {ours}, not {order} of {theirs}")
        for a, b in pairwise(found):
            if given[a] == given[b] == 0 and a > b:
                raise Wrong(f"row {row}: equal images {a} before {b}")
        with np.errstate(all="ignore"):
            right = -ours.astype(np.float64).astype(np.float32)
        far = np.abs(scores[row].astype(np.float64) - right) > 2e-6 * np.abs(right) + 1e-37
        if (far & ~(scores[row] == right)).any():
            raise Wrong(f"row {row}: scores {scores[row]} for {right}")


def _of_one_width(case):
    """Mostly the gallery has the width of the queries, often their kind and scale, or their rows."""
    queries, gallery, k, alike = case
    if alike == "other":
        return queries, gallery, k
    if alike == "width":
        return queries, (gallery[0], queries[1], *gallery[2:]), k
    return queries, (12, *queries[1:5], queries[5] + (alike == "kind"), ""), k


NEAREST = Target(
    "nearest",
    st.tuples(_arrays(), _arrays(), K, st.sampled_from(("width", "kind", "kind", "rows", "other"))).map(
        _of_one_width
    ),
    check_nearest,
    2,
)


MEASURES = ("recall_at_k", "map_at_r", "r_precision", "nmi")
KS_OF_RECALL = st.sampled_from(
    (
        (1,),
        (1, 2, 4),
        (1, 100),
        (3, 1, 3),
        "np",
        (),
        (0,),
        (-1, 1),
        (1.0,),
        ("1",),
        (True,),
        None,
        5,
        "12",
        (1, None),
        (10**30,),
    )
)


def relevance(x, plain, among=None, among_plain=None):
    """Of each query the matches by rank, and whether an order is in doubt by a rounding of float64."""
    alone = among is None
    d = distances(x, x if alone else among)
    names = np.array(plain if alone else among_plain, dtype=object)
    for q, row in enumerate(d):
        others = np.array([g for g in range(len(row)) if not (alone and g == q)], int)
        if not (names[others] == plain[q]).any():
            continue
        order = others[np.lexsort((others, row[others]))]
        of, match = row[order], names[order] == plain[q]
        close = (
            (np.diff(of) <= 1e-11 * of[1:]) & (match[1:] != match[:-1]) & (of[1:] > 0)
            if len(of) > 1
            else np.zeros(0, bool)
        )
        yield match, bool(close.any())


def measure(name, matches, ks):
    values = []
    for match in matches:
        r = int(match.sum())
        if name == "recall_at_k":
            values.append([bool(match[:k].any()) for k in ks])
        else:
            top = match[:r]
            precision = np.cumsum(top) / np.arange(1, r + 1)
            values.append(float((precision * top).sum() / r if name == "map_at_r" else top.sum() / r))
    mean = np.mean(np.array(values, float), axis=0)
    return dict(zip(ks, mean.tolist(), strict=True)) if name == "recall_at_k" else float(mean)


def check_measure(case):
    name, array, kind, ks, apart = case
    x = embeddings(*array)
    labels, plain = labels_of(kind, len(x), array[5])
    ks = tuple(np.array([1, 3])) if ks == "np" else ks
    arguments, among, among_plain = {}, None, None
    if name == "recall_at_k":
        arguments["ks"] = ks
        if apart:
            among = embeddings(apart, *array[1:5], array[5] + 7, "")
            among_labels, among_plain = labels_of(kind, apart, array[5] + 7)
            arguments |= {"gallery": among, "gallery_labels": among_labels}
    function = getattr(pddm_jax, name)
    words = "embeddings", "labels", "gallery", "gallery_labels", "ks"
    outcome = attempt(lambda: function(x, labels, **arguments), words)
    whole = (
        isinstance(ks, tuple)
        and len(ks)
        and all(isinstance(k, int | np.integer) and type(k) is not bool and k >= 1 for k in ks)
    )
    if name == "recall_at_k" and not whole:
        return expect_refusal(outcome, f"ks {ks!r}")
    if plain is None:
        return refused_labels(outcome, kind, x)
    if not finite(x) or (among is not None and not finite(among)):
        return expect_refusal(outcome, "what is not finite")
    if name == "nmi":
        if not len(x):
            return expect_refusal(outcome, "nothing")
        value = expect_value(outcome)
        if not -1e-9 <= value <= 1 + 1e-9:
            raise Wrong(f"nmi {value}")
        return settled(outcome)
    found = [*relevance(x, plain, among, among_plain)] if len(x) and (among is None or len(among)) else []
    if not found:
        return expect_refusal(outcome, "queries that cannot be answered")
    value = expect_value(outcome)
    if not any(doubtful for _, doubtful in found) or (exact_ties(array) and not apart):
        right = measure(name, [match for match, _ in found], ks)
        pairs = [(value, right)] if name != "recall_at_k" else [(value[k], right[k]) for k in right]
        if any(abs(a - b) > 1e-9 for a, b in pairs):
            raise Wrong(f"{name} is {value}, and {right} in 80 bits")
    return settled(outcome)


MEASURED = Target(
    "measures",
    st.tuples(
        st.sampled_from(MEASURES),
        _arrays(),
        LABEL_KINDS,
        st.one_of(st.just((1, 2, 4)), KS_OF_RECALL),
        st.sampled_from((0, 0, 1, 12)),
    ),
    check_measure,
    2,
)

TARGETS = NEAREST, MEASURED
