"""What is no matrix of numbers, in the place of every argument."""

from functools import partial

import jax
import numpy as np
from hypothesis import strategies as st

import pddm_jax
from tests.drills.fuzz_core import Target, attempt, settled
from tests.drills.fuzz_losses import LOSSES, WORDS
from tests.drills.fuzz_units import unit

SHAPES = (
    *("None", "3", "'text'", "[[1.0, 2.0]]", "[]", "{}", "1j", "True", "b'x'"),
    *("zeros(3)", "zeros((2, 3, 4))", "zeros((0, 0))", "zeros((3, 0))", "zeros((0, 3))", "zeros(())"),
    *(
        "complex",
        "bools",
        "objects",
        "strings",
        "dates",
        "masked",
        "structured",
        "jax key",
        "zeros((2,0,3))",
    ),
)


def odd(text):
    arrays = {
        "complex": lambda: np.ones((3, 2), complex),
        "bools": lambda: np.ones((3, 2), bool),
        "objects": lambda: np.array([[1, None], [2, "x"], [3, 4]], object),
        "strings": lambda: np.array([["a", "b"]] * 3),
        "dates": lambda: np.zeros((3, 2), "M8[s]"),
        "masked": lambda: np.ma.masked_greater(np.arange(6.0).reshape(3, 2), 3),
        "structured": lambda: np.zeros((3, 2), [("a", "f4")]),
        "jax key": lambda: jax.random.key(0),
    }
    return arrays[text]() if text in arrays else eval(text, {"zeros": np.zeros})


def check_shapes(case):
    name, text = case
    x, labels = odd(text), np.arange(3) % 2
    try:
        n = len(x)
        labels = np.arange(n) % 2
    except TypeError:
        n = 0
    good = np.ones((3, 2), np.float32)
    calls = {
        "nearest queries": lambda: pddm_jax.nearest(x, good, 1),
        "nearest gallery": lambda: pddm_jax.nearest(good, x, 1),
        "recall": lambda: pddm_jax.recall_at_k(x, labels),
        "recall gallery": lambda: pddm_jax.recall_at_k(good, [0, 0, 1], gallery=x, gallery_labels=labels),
        "map": lambda: pddm_jax.map_at_r(x, labels),
        "nmi": lambda: pddm_jax.nmi(x, labels),
        "pair": lambda: pddm_jax.pair_scores(unit(2), x, x),
        "matrix": lambda: pddm_jax.score_matrix(unit(2), x),
        "matrix y": lambda: pddm_jax.score_matrix(unit(2), good, x),
        "fused": lambda: pddm_jax.mine_quadruplets_fused(unit(2), x, labels),
        "mine": lambda: pddm_jax.mine_quadruplets(x, labels),
        "softmax": lambda: pddm_jax.softmax_loss(x, good, np.zeros(3, int)),
        "hinge": lambda: pddm_jax.double_header_hinge(
            unit(2), x, pddm_jax.mine_quadruplets(np.eye(3), np.arange(3) % 2)
        ),
        "hinge quadruplets": lambda: pddm_jax.double_header_hinge(unit(2), good, x),
        "hinge params": lambda: pddm_jax.double_header_hinge(
            x, good, pddm_jax.mine_quadruplets(np.eye(3), np.arange(3) % 2)
        ),
        "labels": lambda: pddm_jax.contrastive_loss(good, x),
        "margin": lambda: pddm_jax.lifted_structure_loss(good, np.arange(3) % 2, margin=x),
    }
    calls |= {loss: partial(LOSSES[loss][0], x, labels) for loss in LOSSES}
    words = (*WORDS, "queries", "gallery", "gallery_labels", "scores", "x ", "y ", "quadruplets", "k ")
    return settled(attempt(calls[name], words))


SHAPE_CALLS = (
    *(
        "nearest queries",
        "nearest gallery",
        "recall",
        "recall gallery",
        "map",
        "nmi",
        "pair",
        "matrix",
        "matrix y",
        "fused",
    ),
    *("mine", "softmax", "hinge", "hinge quadruplets", "hinge params", "labels", "margin", *sorted(LOSSES)),
)
SHAPED = Target("shapes", st.tuples(st.sampled_from(SHAPE_CALLS), st.sampled_from(SHAPES)), check_shapes)

TARGETS = (SHAPED,)
