"""The train step of a TPU pod, compiled without a TPU: memory, operations, traffic, a bound on the time.

    pip install -e ".[tpu]"
    python -m benchmarks.pod [--networks googlenet resnet50] [--pods v5e:4x4 v5e:16x16]
    python -m benchmarks.pod --configs imagenet2010:pod --pods v5e:16x16

The step is that of the experiments: PDDM on a batch sharded over all chips, with hard pairs mined in the
whole batch; or with --configs the step of configs in experiments/configs. A row takes libtpu's compiler 2
to 60 minutes of a core, all rows take hours. For 16 chips it may need a larger stack than the usual 8 MiB:
`ulimit -s 524288` first.

Columns, for each chip:

- GiB: memory held; or the message of the compiler if it exceeds the chip.
- TFLOP: its share of the products and convolutions, as traced.
- in passes: the same in bfloat16 passes; a float32 product of the scores takes six.
- GB memory: bytes read and written, as counted by the compiler (a loop once).
- MB received: from other chips.
- ms at least: the longest of the three at the peak rates of the chip. Nothing is run, so no step has taken
  this time.
"""

import re
import sys
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from benchmarks.lib.compiled import compile_step, experiment_config, pod_config, without_a_tpu
from benchmarks.lib.report import arguments, report


class Chip(NamedTuple):
    """Peak rates of a chip per second."""

    operations: float  # in bfloat16
    memory: float  # bytes read or written
    received: float  # bytes from other chips: half of what its links carry both ways


CHIPS = {
    "v5e": Chip(197e12, 819e9, 200e9),
    "v5p": Chip(459e12, 2765e9, 600e9),
    "v6e": Chip(918e12, 1638e9, 400e9),
}
"""From docs.cloud.google.com/tpu/docs/v5e, v5p and v6e."""

PODS = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16")
COLUMNS = ("compiled s", "GiB", "TFLOP", "in passes", "GB memory", "MB received", "ms at least", "bound by")


def figures(found: dict[str, Any], chip: Chip) -> dict[str, Any]:
    """The columns of the table."""
    passes = sum(n * count for n, count in found["operations"].items())
    received = sum(found["received"].values())
    seconds = {
        "products": passes / chip.operations,
        "memory": found["memory"] / chip.memory,
        "links": received / chip.received,
    }
    by = max(seconds, key=lambda name: seconds[name])
    values = (
        found["seconds"],
        found["held"] / 2**30,
        sum(found["operations"].values()) / 1e12,
        passes / 1e12,
        found["memory"] / 1e9,
        received / 1e6,
        1e3 * seconds[by],
        by,
    )
    return dict(zip(COLUMNS, values, strict=True))


def row(step: str, pod: str, config: ConfigDict) -> dict[str, Any]:
    """A row of the table."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=pod).devices
    name = {"step": step, "pod": pod, "chips": len(devices)}
    try:
        return name | figures(compile_step(config, devices), CHIPS[pod.split(":")[0]])
    except jax.errors.JaxRuntimeError as error:
        wants = re.search(r"Used (\S+) of (\S+) hbm", str(error))
        if not wants:
            raise
        return name | dict.fromkeys(COLUMNS, "-") | {"GiB": f"{wants[1]} of {wants[2]}"}


def main() -> None:
    """Compile, and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", default=["googlenet", "resnet50"])
    parser.add_argument("--configs", nargs="+", help="experiments, in place of all flags but --pods")
    parser.add_argument("--pods", nargs="+", default=PODS, help="as libtpu names them")
    parser.add_argument("--batch", type=int, default=8192, help="images, on all chips together")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--d", type=int, default=512, help="width of embeddings and of the unit")
    parser.add_argument("--dtype", default="bfloat16", help="what the network computes in")
    given = parser.parse_args()
    without_a_tpu()
    fields = {"embedding_dim": given.d, "unit_dim": given.d, "dtype": given.dtype}
    if given.configs:
        configs, more = {name: experiment_config(name) for name in given.configs}, {}
    else:
        configs = {name: pod_config(name, given.batch, given.size, fields) for name in given.networks}
        more = {"batch": given.batch, "size": given.size, **fields}
    rows = []
    for name, config in configs.items():
        for pod in given.pods:
            rows.append(row(name, pod, config))
            print(" ".join(map(str, rows[-1].values())), file=sys.stderr, flush=True)
    more["libtpu"] = version("libtpu")
    print(", ".join(f"{name} {value}" for name, value in more.items()))
    report("pod", rows, given.out, **more)


if __name__ == "__main__":
    main()
