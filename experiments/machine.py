"""CPU settings made before JAX starts: huge pages, and one JAX device per core.

The computations of GPUs and TPUs do not change. Measurements are in docs/performance.md.
"""

import os
import platform
import sys

import jax

from pddm_jax.system.processes import cores

LEAST = 8
"""Minimum number of images of a batch per JAX device."""

AS_ONE = {"efficientnet_lite0": 2}
"""Networks that are faster on one JAX device, up to this number of cores: most operations use them all."""


def use_huge_pages() -> None:
    """Restart the process with huge pages for large arrays: glibc reads this setting only at startup.

    A step allocates and frees hundreds of megabytes, and takes a quarter less time with huge pages. A
    program that is typed or piped in cannot be restarted.
    """
    can_restart = sys.argv[0] not in ("", "-")
    if can_restart and "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc":
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def use_all_cores(network: str, batch: int) -> None:
    """Set the number of JAX devices: at most one per core, each with an equal share of the batch.

    On each device XLA runs a convolution on one core. A network of `AS_ONE` gets one device on few cores. A
    number that is set by JAX_NUM_CPU_DEVICES or XLA_FLAGS is kept.
    """
    is_set = jax.config.values["jax_num_cpu_devices"] != -1 or "device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if not is_set:
        as_one = cores() <= AS_ONE.get(network, 0)
        limit = 1 if as_one else max(1, min(cores(), batch // LEAST))
        jax.config.update("jax_num_cpu_devices", max(n for n in range(1, limit + 1) if batch % n == 0))
