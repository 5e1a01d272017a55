"""Made results of a run, with names that are plain or hostile, and its page."""

import numpy as np

from experiments.evaluations import retrieval
from pddm_jax.evaluate.metrics import query_measures
from pddm_jax.report.retrieval import retrieval_fields
from pddm_jax.report.write import write_run
from tests.report.pages import Page
from tests.report.samples import embedded, normal, unit

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><b>',
    "' onload='alert(1)",
    "{{ 7 * 7 }}{% raw %}{#",
    "a\udc80b",  # a byte of a file name that is not UTF-8
    "two\nlines",
    "<!-- ]]> &lt; &amp;",
    "\u2028 🐆 снег",
    "</title></textarea></style>",
)
PLAIN = tuple(f"name {n}" for n in range(len(HOSTILE)))
ROWS = (
    {"step": 2, "loss": 3.25, "gradient_norm": 36.7, "seconds": 0.5},
    {"step": 2, "recall_at_1": 0.515625, "map_at_r": 0.25, "seconds": 0.6},
    {"step": 4, "loss": 2.125, "gradient_norm": 30.1, "seconds": 1.5},
    {"step": 4, "recall_at_1": 0.71875, "map_at_r": 0.375, "seconds": 1.7},
)


def results(names=PLAIN, pddm=True):
    """As in results.json; its strings are among `names`."""

    def ranked(low):
        return {str(2**k): low + (1 - low) * k / 7 for k in range(6)}

    return {
        "experiment": names[0],
        "evaluation": "retrieval",
        "protocol": {
            "data": names[1],
            "split": names[5],
            "classes": {"train": 5, "test": 10},
            "images": {"train": 20, "test": 40},
            "image_shape": [6, 6, 3],
            "transform": {names[2]: names[3], "flip": False, "ratio": 1.5},
            "network": {"name": names[4], "pretrained": None},
            "objective": {"name": names[6], "alpha": 0.5},
            "many": [*names],
            "seed": 3,
        },
        "recall_at_k": {"euclidean": ranked(0.123456789), "pddm": ranked(0.2) if pddm else None},
        "map_at_r": {"euclidean": 1 / 3, "pddm": 0.98 if pddm else None},
        "r_precision": {"euclidean": 0.1, "pddm": 2 / 7 if pddm else None},
        "nmi": None,
        "steps": 4,
        "seconds": 1.7,
        "images_per_second": 231.7,
        "params_sha256": "ab" * 32,
        "versions": {"python": "3.11", names[7]: names[8]},
    }


def images(names=PLAIN):
    """10 classes of 4 images with random embeddings; the last two lie among those of the first class."""
    x, labels = normal(0, 40), np.arange(40) // 4
    x[:4] = x[0] + 0.01 * normal(2, 4)
    x[38:] = x[0] + 0.01 * normal(1, 2)
    return embedded(x, labels, names=dict(enumerate(names)))


def fields(names=PLAIN, params=None):
    data = images(names)
    return retrieval_fields(data, query_measures(data.embeddings, data.images.labels, 8), data, params, 0)


def write(path, fields, names=PLAIN, rows=ROWS, pddm=True):
    """The page of a run, as `experiments.runner` writes it."""
    found = results(names, pddm)
    tables = [(head[0], head, cells) for head, *cells in retrieval.grids(found)]
    write_run(path, found, tables, rows, fields)
    return Page(path)


def write_whole(path, names=PLAIN):
    """With all sections."""
    return write(path, fields(names, unit()[0]), names)
