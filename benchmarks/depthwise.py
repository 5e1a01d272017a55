"""EfficientNet-Lite0 with this project's depthwise convolution against XLA's grouped one.

    python -m benchmarks.depthwise [--sizes 64 128 224] [--batch 8]

Random weights; the two forms take turns within one process; medians.
"""

from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from benchmarks.lib.report import arguments, report
from benchmarks.lib.timing import interleaved
from pddm_jax.networks import depthwise
from pddm_jax.networks.efficientnet_lite import EfficientNetLite0


def forms(size: int, batch: int, backward: bool) -> dict[str, Callable[[], jax.Array]]:
    """The network's features, or the norm of a gradient, by both convolutions."""
    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    network = EfficientNetLite0()
    variables = jax.jit(network.init)(jax.random.key(1), images)

    def features(variables: dict) -> jax.Array:
        return network.apply(variables, images)

    def gradient(variables: dict) -> jax.Array:
        # Of all parameters, so that none of their gradients is left out as unused.
        return optax.tree.norm(jax.grad(lambda v: jnp.sum(jnp.square(features(v))))(variables))

    run = gradient if backward else features
    ours = jax.jit(run).lower(variables).compile()
    with mock.patch.object(depthwise, "depthwise_conv", depthwise._grouped):
        theirs = jax.jit(lambda v: run(v)).lower(variables).compile()
    return {"shifted products": lambda: ours(variables), "grouped": lambda: theirs(variables)}


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    for backward in (False, True):
        for size in given.sizes:
            seconds = interleaved(forms(size, given.batch, backward), given.rounds, 1)
            ours, theirs = (given.batch / took for took in seconds.values())
            rows.append(
                {
                    "pixels": size,
                    "of": "gradient" if backward else "forward",
                    "shifted products, images/s": ours,
                    "grouped": theirs,
                    "ratio": ours / theirs,
                }
            )
    report("depthwise", rows, given.out, batch=given.batch)


if __name__ == "__main__":
    main()
