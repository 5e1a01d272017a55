"""Memory of pairwise functions, and of a train step by microbatches.

    python -m benchmarks.memory

Memory besides arguments and result, as allocated by the compiler, and the growth of the process. Each
function runs once in its own process, after a smaller call has loaded everything.

    XLA_FLAGS=--xla_backend_optimization_level=0 python -m benchmarks.memory --network resnet50

The train step of a network by number of microbatches, with and without rematerialized blocks, as allocated
by the compiler: nothing is run, so the code need not be fast.
"""

import multiprocessing
import resource
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.lib.compiled import compile_step, pod_config
from benchmarks.lib.report import arguments, report
from pddm_jax import PDDM, mine_quadruplets_fused, score_matrix
from pddm_jax.networks import NETWORKS
from pddm_jax.numerics import l2_normalize

MIB = 2**20


class Case(NamedTuple):
    """A function, the number of embeddings, and their width."""

    name: str
    b: int
    d: int


CASES = (
    Case("score_matrix", 2048, 128),
    Case("gradient of score_matrix", 2048, 128),
    Case("mine_quadruplets_fused", 2048, 128),
    Case("mine_quadruplets_fused", 16_384, 128),
)


def peak() -> float:
    """The peak resident MiB of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def measure(case: Case) -> dict[str, float | str | int]:
    """Compile a function, run it once, and measure its memory."""
    functions = {
        "score_matrix": lambda params, x: score_matrix(params, x),
        "gradient of score_matrix": jax.grad(
            lambda params, x: jnp.sum(jnp.square(score_matrix(params, x))), argnums=(0, 1)
        ),
        "mine_quadruplets_fused": lambda params, x: mine_quadruplets_fused(
            params, x, jnp.arange(len(x)) // 4, "anchor"
        ),
    }
    function = jax.jit(functions[case.name])
    x = l2_normalize(jax.random.normal(jax.random.key(0), (case.b, case.d)))
    params = PDDM(case.d, case.d).init(jax.random.key(1), x[:2], x[:2])["params"]
    jax.block_until_ready(function(params, x[:256]))
    compiled = function.lower(params, x).compile()
    analysis = compiled.memory_analysis()
    before = peak()
    jax.block_until_ready(compiled(params, x))
    return {
        **case._asdict(),
        "result, MiB": analysis.output_size_in_bytes / MIB,
        "besides it, by the compiler": analysis.temp_size_in_bytes / MIB,
        "growth with the result": peak() - before,
    }


def of_step(network: str, batch: int, size: int, parts: int, remat: bool) -> dict[str, float | str | int]:
    """Compile the train step for one device, and measure its memory besides arguments and result."""
    fields = {"microbatches": parts, "remat": remat}
    found = compile_step(pod_config(network, batch, size, fields), jax.devices()[:1])
    return {
        "step": f"{network}, {batch} x {size} x {size} x 3",
        **fields,
        "besides it, MiB": found["temporary"] / MIB,
        "compiled s": found["seconds"],
    }


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--network", choices=NETWORKS, help="the train step, in place of the pairwise work")
    parser.add_argument("--batch", type=int, default=64, help="of --network")
    parser.add_argument("--size", type=int, default=64, help="pixels a side, likewise")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4, 8], help="likewise")
    given = parser.parse_args()
    if given.network:
        blocks = hasattr(NETWORKS[given.network].make(), "remat")
        report(
            "memory_of_steps",
            [
                of_step(given.network, given.batch, given.size, parts, remat)
                for remat in (False, True)[: 1 + blocks]
                for parts in given.parts
            ],
            given.out,
        )
        return
    context, rows = multiprocessing.get_context("spawn"), []
    for case in CASES:
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, (case,)))
    report("memory", rows, given.out)


if __name__ == "__main__":
    main()
