"""What is settled before JAX starts on a CPU."""

import os
import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TUNED = "glibc.malloc.hugetlb=1"
DEVICES = """
import os, sys
import jax
from experiments import machine
network, cores, *batches = sys.argv[1:]
machine.cores = lambda: int(cores)
for batch in batches:
    if not os.fork():  # JAX has not begun
        machine.use_all_cores(network, int(batch))
        print(jax.device_count("cpu"), flush=True)
        os._exit(0)
    os.wait()
"""
OF_SMALL_CNN = "-c", DEVICES, "small_cnn", "4"
PAGES = """
import os, sys
print("start", flush=True)
from experiments.machine import use_huge_pages
use_huge_pages()
print(os.environ["GLIBC_TUNABLES"], *sys.argv[1:])
"""


def lines(*arguments, typed=None, **environment):
    """What a Python without settings of its own prints."""
    kept = {name: x for name, x in os.environ.items() if name not in ("GLIBC_TUNABLES", "XLA_FLAGS")}
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=kept | {"JAX_PLATFORMS": "cpu"} | environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return run.stdout.splitlines()


def test_a_device_for_each_core():
    """With 4 cores; a device takes 8 images or more, and all take as many."""
    devices = {64: 4, 30: 3, 31: 1, 16: 2, 4: 1, 0: 1}
    assert lines(*OF_SMALL_CNN, *map(str, devices)) == [*map(str, devices.values())]


def test_one_device_for_a_network_that_is_faster_so():
    assert lines("-c", DEVICES, "efficientnet_lite0", "2", "64") == ["1"]
    assert lines("-c", DEVICES, "efficientnet_lite0", "4", "64") == ["4"]


def test_a_number_of_devices_that_was_given_stands():
    assert lines(*OF_SMALL_CNN, "64", JAX_NUM_CPU_DEVICES="3") == ["3"]
    assert lines(*OF_SMALL_CNN, "64", XLA_FLAGS="--xla_force_host_platform_device_count=6") == ["6"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_huge_pages_start_the_process_once_more():
    assert lines("-c", PAGES, "--a", "b c") == ["start", "start", f"{TUNED} --a b c"]
    assert lines("-c", PAGES, GLIBC_TUNABLES="glibc.malloc.check=0") == ["start", "glibc.malloc.check=0"]


def test_a_program_that_was_piped_in_runs_on():
    typed = 'print("start")\nfrom experiments.machine import use_huge_pages\nuse_huge_pages()\nprint("end")'
    assert lines("-", typed=typed) == ["start", "end"]
