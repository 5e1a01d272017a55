"""All-pairs scores and fused mining against nested `vmap` of the unit, and against the machine.

    python -m benchmarks.scoring [--b 512] [--d 128]

Each function is timed in short runs of calls, the functions taking turns; the first call of a run
is not counted, since it pays for what the function before it left behind (nested `vmap` frees
hundreds of megabytes). Ratios are within one run.
"""

import jax
import numpy as np

from benchmarks.lib.report import arguments, report
from benchmarks.lib.timing import interleaved
from pddm_jax import PDDM, mine_quadruplets_fused, score_matrix
from pddm_jax.numerics import l2_normalize


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--b", type=int, default=512, help="images")
    parser.add_argument("--d", type=int, default=128, help="width of embeddings and of the unit")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5)
    given = parser.parse_args()
    b, d = given.b, given.d

    x = l2_normalize(jax.random.normal(jax.random.key(0), (b, d)))
    unit = PDDM(d, d)
    variables = unit.init(jax.random.key(1), x, x)
    params = variables["params"]
    labels = np.arange(b) // 4
    w = jax.random.normal(jax.random.key(2), (d, d)) / d**0.5
    rows = jax.random.normal(jax.random.key(3), (2048, d))

    pairs = b * (b + 1) // 2
    products = -(-pairs // len(rows))
    nested = jax.jit(jax.vmap(jax.vmap(unit.apply, (None, None, 0)), (None, 0, None)))
    gemm = jax.jit(lambda a: jax.lax.fori_loop(0, products, lambda _, a: a @ w @ w @ w, a))
    seconds = interleaved(
        {
            "nested vmap": lambda: nested(variables, x, x),
            "score_matrix": lambda: score_matrix(params, x),
            "mine_quadruplets_fused": lambda: mine_quadruplets_fused(params, x, labels, "anchor").i,
            "its matrix products alone": lambda: gemm(rows),
        },
        given.rounds,
        given.calls,
    )
    operations = pairs * 6 * d * d
    rows = [
        {
            "function": name,
            "ms": 1e3 * took,
            "times nested": seconds["nested vmap"] / took,
            "GFLOP/s needed": operations / took / 1e9,
        }
        for name, took in seconds.items()
    ]
    report("scoring", rows, given.out, b=b, d=d)


if __name__ == "__main__":
    main()
