"""All of a CPU: what must be settled before JAX starts. What a GPU or TPU does is not changed by it.

Figures are in docs/performance.md.
"""

import os
import platform
import sys

import jax

from pddm_jax.system.processes import cores

LEAST = 8
"""Images of a batch that are worth a core of their own."""

AS_ONE = {"efficientnet_lite0": 2}
"""Networks that are faster as one device, on so many cores or fewer: most of their operations use all."""


def use_huge_pages() -> None:
    """Start the process once more with huge pages for large arrays, of which glibc reads only at its start.

    A step allocates and frees hundreds of megabytes, and takes a quarter less time with them. A program
    that is typed or piped in cannot be started again.
    """
    again = sys.argv[0] not in ("", "-")
    if again and "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc":
        environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def use_all_cores(network: str, batch: int) -> None:
    """A device of JAX for each core, as far as the batch divides; XLA's convolutions use one core a device.

    One device for a network that is faster so. What was said of their number by JAX_NUM_CPU_DEVICES or
    XLA_FLAGS stands.
    """
    said = jax.config.values["jax_num_cpu_devices"] != -1 or "device_count" in os.environ.get(
        "XLA_FLAGS", ""
    )
    if not said:
        as_one = cores() <= AS_ONE.get(network, 0)
        most = 1 if as_one else max(1, min(cores(), batch // LEAST))
        jax.config.update("jax_num_cpu_devices", max(n for n in range(1, most + 1) if batch % n == 0))
