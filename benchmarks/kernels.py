"""The fused score-and-mine reduction on a TPU chip, compiled without one: bytes and operations.

    pip install -e ".[tpu]"
    python -m benchmarks.kernels [--b 8192] [--d 512] [--chips v5e:2x2 v5p:2x2x1]

Columns:

- MB beside inputs: what the program holds in the chip's memory beside embeddings, labels and parameters.
- TFLOP needed: 6 d^2 for each of b (b + 1) / 2 pairs.
- TFLOP: those of the products, as traced: tiles on the diagonal are computed whole.
- in passes: the same in bfloat16, of which a float32 product takes six.

Nothing is run, so nothing is said of its speed.
"""

import time
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from benchmarks.lib.compiled import without_a_tpu
from benchmarks.lib.operations import operations
from benchmarks.lib.report import arguments, report
from pddm_jax import PDDM
from pddm_jax.pddm.backends import hardest_partners
from pddm_jax.sharding import data_mesh, replicated
from pddm_jax.types import DTYPES

CHIPS = ("v5e:2x2", "v5p:2x2x1", "v6e:2x2")


def abstract_batch(b: int, d: int, sharding: NamedSharding | None = None) -> Any:
    """Parameters, embeddings and labels without values; d = h = c."""
    x = jax.ShapeDtypeStruct((b, d), jnp.float32)
    params = jax.eval_shape(PDDM(d, d).init, jax.random.key(0), x, x)["params"]
    batch = params, x, jax.ShapeDtypeStruct((b,), jnp.int32)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), batch)


def row(chip: str, dtype: str, b: int, d: int) -> dict[str, Any]:
    """A row of the table."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=chip).devices
    since = time.perf_counter()
    batch = abstract_batch(b, d, replicated(data_mesh(devices[:1])))
    traced = jax.jit(partial(hardest_partners, dtype=dtype)).trace(*batch)
    program = traced.lower().compile()
    held = program.memory_analysis()
    asked = operations(traced.jaxpr.jaxpr)
    return {
        "chip": chip.split(":")[0],
        "dtype": dtype,
        "compiled s": time.perf_counter() - since,
        "MB beside inputs": (held.temp_size_in_bytes + held.output_size_in_bytes) / 1e6,
        "TFLOP needed": 3 * b * (b + 1) * d**2 / 1e12,
        "TFLOP": asked.total() / 1e12,
        "in passes": sum(n * count for n, count in asked.items()) / 1e12,
    }


def main() -> None:
    """Compile, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--chips", nargs="+", default=CHIPS, help="as libtpu names them")
    parser.add_argument("--b", type=int, default=8192, help="images")
    parser.add_argument("--d", type=int, default=512, help="width of embeddings and of the unit")
    given = parser.parse_args()
    without_a_tpu()
    rows = [row(chip, dtype, given.b, given.d) for chip in given.chips for dtype in DTYPES]
    report("kernels", rows, given.out, b=given.b, d=given.d, libtpu=version("libtpu"))


if __name__ == "__main__":
    main()
