"""The share of hardest partners that mining in bfloat16 and in float32 agree on.

    python -m benchmarks.agreement [--b 1024] [--widths 128 512]

Embeddings are synthetic: classes of eight around random centers on the unit sphere; the unit has its
initial weights. For each image the hardest negative and the hardest positive are compared. "missed by" is
the median difference of the float32 scores where the partners differ, divided by the standard deviation of
the scores of the partners by float32.
"""

import jax
import numpy as np

from benchmarks.lib.report import Rows, arguments, report
from pddm_jax import PDDM, mine_quadruplets_fused, pair_scores
from pddm_jax.numerics import l2_normalize

EACH = 8


def rows(b: int, d: int) -> Rows:
    """A row of the table for negatives and one for positives."""
    labels = np.arange(b) // EACH
    centers, noise = (jax.random.normal(jax.random.key(n), (b, d)) for n in range(2))
    x = l2_normalize(centers[labels] + noise)
    params = PDDM(d, d).init(jax.random.key(2), x[:2], x[:2])["params"]
    exact = mine_quadruplets_fused(params, x, labels, "anchor")
    rough = mine_quadruplets_fused(params, x, labels, "anchor", dtype="bfloat16")
    found = []
    for partner, right, picked in (("negative", exact.k, rough.k), ("positive", exact.j, rough.j)):
        scores, others = (np.asarray(pair_scores(params, x, x[index])) for index in (right, picked))
        wrong = np.asarray(right != picked)
        missed = np.median(np.abs(scores - others)[wrong]) / scores.std() if wrong.any() else 0
        share = {"agree, %": 100 * float(1 - wrong.mean()), "missed by, %": 100 * float(missed)}
        found.append({"b": b, "d": d, "partner": partner, **share})
    return found


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--b", type=int, default=1024, help="images")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512], help="d = h = c")
    given = parser.parse_args()
    report("agreement", [row for d in given.widths for row in rows(given.b, d)], given.out)


if __name__ == "__main__":
    main()
