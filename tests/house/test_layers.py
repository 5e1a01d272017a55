"""Imports go only downward, by the table of docs/architecture.md."""

import statistics
import sys
from collections import Counter

import pytest

from tests.house import layers
from tests.house.layers import (
    LEAST_TEST_LINES,
    MEDIAN,
    MODULES,
    MOST_LINES_OF_A_FILE,
    MOST_LINES_OF_A_FUNCTION,
    functions,
    imports,
    imports_of,
    lines,
    nonlocals,
    sizes_of_tests,
    table,
    upward,
)


def test_every_module_has_one_row_and_every_row_a_module():
    rows = table()
    named = Counter(module for modules, *_ in rows for module in modules)
    assert not [files for modules, files, _ in rows if not modules]
    assert not {*MODULES} - {*named}
    assert not [module for module, count in named.items() if count > 1]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module):
    assert not upward(imports_of(module), module)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("pddm_jax")))
def test_the_library_does_not_know_the_experiments(module):
    assert not [name for name in imports_of(module) if name.startswith("experiments")]


def test_functions_fit_on_a_screen_and_files_in_a_sitting():
    sizes = {module: lines(path) for module, path in MODULES.items()}
    assert not {module: size for module, size in sizes.items() if size > MOST_LINES_OF_A_FILE}
    assert statistics.median(sizes.values()) < MEDIAN
    long = {
        f"{module}.{name}": size
        for module, path in MODULES.items()
        for name, size in functions(path)
        if size > MOST_LINES_OF_A_FUNCTION
    }
    assert not long
    assert not [module for module, path in MODULES.items() if nonlocals(path)]


def test_there_are_enough_test_lines():
    assert sum(sizes_of_tests().values()) >= LEAST_TEST_LINES * sum(map(lines, MODULES.values()))


def test_the_command_prints_what_is_beyond_a_limit(monkeypatch, capsys):
    monkeypatch.setattr(layers, "MOST_LINES_OF_A_FILE", lines(MODULES["pddm_jax.types"]) - 1)
    monkeypatch.setattr(layers, "MOST_LINES_OF_A_FUNCTION", 1)
    monkeypatch.setattr(sys, "argv", ["layers"])
    layers.main()
    printed = capsys.readouterr().out.splitlines()
    assert f"pddm_jax.types: {lines(MODULES['pddm_jax.types'])} lines" in printed
    assert any(line.startswith("pddm_jax.system.processes.cores: ") for line in printed)
    assert any(line.startswith("tests/house/layers.py: ") for line in printed)
    assert printed[-2].startswith(f"source: {len(MODULES)} files, ")
    assert " per source line" in printed[-1]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from pddm_jax.pddm.scoring import score_rows", "pddm_jax.pddm.unit"),
        ("from pddm_jax.pddm import mining", "pddm_jax.pddm.scoring"),
        ("def f():\n    import pddm_jax.training.writer", "pddm_jax.types"),
        ("from pddm_jax import PDDM", "pddm_jax.losses"),
        ("from .protocols import folder", "pddm_jax.data.glyphs"),
        ("from . import pipeline", "pddm_jax.data.sampler"),
        ("from experiments import quickstart", "experiments.runner"),
        ("from experiments import compare", "experiments.fashion_mnist"),
    ],
)
def test_an_upward_import_is_seen(source, module):
    assert upward(imports(source, module), module)
