"""Scoring and mining in one on this machine's device: the chosen backend and the plain one.

    python -m benchmarks.mining [--b 1024] [--widths 128 512] [--dtypes float32 bfloat16]

Columns:

- TFLOP/s: the operations that are needed, 6 d^2 for each of b (b + 1) / 2 pairs, by the time, and the
  share of what a plain matrix product in the same type reaches in the same run.
- MB beside inputs: what the compiled program holds beside embeddings, labels and parameters.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.lib.report import Rows, arguments, report
from benchmarks.lib.timing import interleaved
from pddm_jax import PDDM
from pddm_jax.numerics import l2_normalize
from pddm_jax.pddm import backends
from pddm_jax.pddm.backends import hardest_partners, search_with
from pddm_jax.pddm.tiles import UnitWidths
from pddm_jax.sharding import device_kind
from pddm_jax.types import DTYPES

EACH = 8
"""Images of a class."""


def rows(b: int, d: int, dtype: str, side: int, rounds: int) -> Rows:
    """A row of the table for each backend."""
    x = l2_normalize(jax.random.normal(jax.random.key(0), (b, d)))
    params = jax.jit(PDDM(d, d).init)(jax.random.key(1), x[:1], x[:1])["params"]
    batch = params, x, jnp.arange(b) // EACH
    forms = {
        "chosen": partial(hardest_partners, dtype=dtype),
        "plain": partial(search_with, backend=backends.PLAIN, dtype=dtype),
    }
    kernel = backends.KERNELS.get(device_kind(x))
    if kernel is None or not kernel().supports(dtype, UnitWidths(d, d, d)):
        del forms["chosen"]  # it is the plain one
    programs = {name: jax.jit(form).lower(*batch).compile() for name, form in forms.items()}
    square = jax.random.normal(jax.random.key(2), (side, side)).astype(dtype)
    product = jax.jit(partial(jnp.matmul, precision="highest", preferred_element_type=dtype))
    timed: dict[str, Any] = {name: partial(program, *batch) for name, program in programs.items()}
    took = interleaved(timed | {"GEMM": partial(product, square, square)}, rounds, 3)
    gemm = 2 * side**3 / took["GEMM"]
    found: list[dict[str, Any]] = []
    for name, program in programs.items():
        held, rate = program.memory_analysis(), 3 * b * (b + 1) * d**2 / took[name]
        found.append(
            {
                "b": b,
                "d": d,
                "dtype": dtype,
                "form": name,
                "ms": 1e3 * took[name],
                "TFLOP/s": rate / 1e12,
                "GEMM, TFLOP/s": gemm / 1e12,
                "of GEMM, %": 100 * rate / gemm,
                "MB beside inputs": (held.temp_size_in_bytes + held.output_size_in_bytes) / 1e6,
            }
        )
    return found


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--b", type=int, default=1024, help="images")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 512], help="d = h = c")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="of the products")
    side = 2048 if jax.default_backend() == "cpu" else 8192
    parser.add_argument("--side", type=int, default=side, help="rows of the plain product's matrices")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    table = [
        row
        for d in given.widths
        for dtype in given.dtypes
        for row in rows(given.b, d, dtype, given.side, given.rounds)
    ]
    report("mining", table, given.out)


if __name__ == "__main__":
    main()
