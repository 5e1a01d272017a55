"""Experiments: one short file and one config each; see the README for how to run them."""

import runpy
from importlib.util import find_spec
from pathlib import Path

_package = find_spec("pddm_jax")
if _package is not None and _package.origin is not None:
    # Without the package itself, which loads JAX.
    runpy.run_path(str(Path(_package.origin).parent / "system" / "early.py"))["begin"]("experiments")
