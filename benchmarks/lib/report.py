"""The report of every benchmark: a table on the screen and, with --out, the same rows as a JSON file."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.evaluations.base import align
from pddm_jax.system.files import write_json
from pddm_jax.system.processes import cores
from pddm_jax.training.provenance import versions

Rows = Sequence[dict[str, Any]]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser of the flags of a benchmark, with --out."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the figures as a file")
    return parser


def processor() -> str:
    """The name of the CPU, with family and model on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = dict(reversed([(x.strip() for x in line.split(":", 1)) for line in lines if ":" in line]))
    names = ("model name", ""), ("cpu family", "family "), ("model", "model ")
    return ", ".join(prefix + fields[name] for name, prefix in names if name in fields) or "unknown CPU"


def report(name: str, rows: Rows, out: Path | None, **more: Any) -> None:
    """Print rows of equal columns under the name of the machine, and write all of it to OUT/name.json."""
    machine = {"cpu": processor(), "cores": cores(), "load": round(os.getloadavg()[0], 1), **versions()}
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in machine.items()))
    cells = [[_cell(value) for value in row.values()] for row in rows]
    print(align([list(rows[0]), *cells]))
    if out:
        write_json(out / f"{name}.json", {"benchmark": name, "machine": machine, **more, "rows": rows})


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
