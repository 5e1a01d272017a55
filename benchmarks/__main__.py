"""Run all benchmarks one after the other, each in its own process.

    python -m benchmarks --out DIR

A benchmark that needs a package which is not installed (`pip install -e ".[peers]"`) is skipped.
"""

import subprocess
import sys
from importlib.util import find_spec

from benchmarks.lib.report import arguments

NEEDS = {
    "scoring": (),
    "growth": (),
    "memory": (),
    "mining": (),
    "agreement": (),
    "train_step": ("torch", "pytorch_metric_learning"),
    "retrieval": (),
    "class_means": (),
    "preparing": (),
    "reading": (),
    "depthwise": (),
    "pod": ("libtpu",),
    "kernels": ("libtpu",),
}
"""The benchmarks, and the packages they need in addition to those of the project."""


def main() -> int:
    """Run all of them; the exit status is the number of failures."""
    out = arguments(__doc__).parse_args().out
    failed = []
    for name, needs in NEEDS.items():
        missing = [package for package in needs if find_spec(package) is None]
        if missing:
            print(f"{name}: skipped, {', '.join(missing)} not installed\n", flush=True)
            continue
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--out", str(out)] if out else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
        print(flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all done")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
