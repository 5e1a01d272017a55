"""Growth of the time for all pairs with the batch size and with the width.

    python -m benchmarks.growth --out DIR

Time of a call against b at one width, and against d at one batch, with the exponent of a power law fitted
to the larger half; growth.png shows the curves. Nested `vmap` is omitted if it would take more than 2 GiB.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.lib.report import Rows, arguments, report
from benchmarks.lib.timing import interleaved
from pddm_jax import PDDM, mine_quadruplets_fused, score_matrix
from pddm_jax.numerics import l2_normalize

AXES = {"b": "images in the batch, d = h = c = 128", "d": "d = h = c, 512 images"}
MOST = 2**31


def forms(b: int, d: int) -> dict[str, Callable[[], jax.Array]]:
    """The timed functions by name."""
    x = l2_normalize(jax.random.normal(jax.random.key(0), (b, d)))
    unit = PDDM(d, d)
    variables = unit.init(jax.random.key(1), x, x)
    params, labels = variables["params"], np.arange(b) // 4
    functions: dict[str, Callable[[], jax.Array]] = {
        "score_matrix": lambda: score_matrix(params, x),
        "mine_quadruplets_fused": lambda: mine_quadruplets_fused(params, x, labels, "anchor").i,
    }
    if 16 * b * b * d < MOST:  # at least four arrays [b, b, d] of float32
        nested = jax.jit(jax.vmap(jax.vmap(unit.apply, (None, None, 0)), (None, 0, None)))
        functions["nested vmap"] = lambda: nested(variables, x, x)
    return functions


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The exponent of the time as a power of the size, fitted to the larger half of the sizes."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0])


def draw(rows: Rows, path: Path) -> None:
    """Time against each size, on logarithmic axes."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (axis, title) in zip(figure.subplots(1, 2), AXES.items(), strict=True):
        for name in dict.fromkeys(row["function"] for row in rows):
            of = [row for row in rows if row["function"] == name and row["along"] == axis]
            sizes, seconds = ([row[key] for row in of] for key in (axis, "ms"))
            label = f"{name} (exponent {of[-1]['exponent']:.2f})"
            axes.plot(sizes, seconds, marker="o", markersize=3.5, label=label)
        ticks = sorted({row[axis] for row in rows if row["along"] == axis})
        axes.set(xscale="log", yscale="log", xlabel=title, ylabel="ms a call", xticks=ticks)
        axes.set_xticks([], minor=True)
        axes.set_xticklabels([str(tick) for tick in ticks])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print a table, and draw."""
    parser = arguments(__doc__)
    parser.add_argument("--b", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--d", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    for axis, cases in {"b": [(b, 128) for b in given.b], "d": [(512, d) for d in given.d]}.items():
        for b, d in cases:
            for name, took in interleaved(forms(b, d), given.rounds, 3).items():
                rows.append({"along": axis, "function": name, "b": b, "d": d, "ms": 1e3 * took})
    for row in rows:
        of = [x for x in rows if (x["along"], x["function"]) == (row["along"], row["function"])]
        row["exponent"] = exponent([x[row["along"]] for x in of], [x["ms"] for x in of])
    report("growth", rows, given.out)
    if given.out:
        draw(rows, given.out / "growth.png")


if __name__ == "__main__":
    main()
