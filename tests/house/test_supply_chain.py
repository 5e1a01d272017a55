"""Dependencies: locked versions, licenses, no code from data, and no network."""

import ast
import itertools
import re
import tomllib

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from PIL import Image

from benchmarks import licenses
from tests.conftest import ROOT
from tests.house.layers import MODULES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED = [Requirement(text) for text in PROJECT["dependencies"]]
TESTED = [Requirement(text) for text in PROJECT["optional-dependencies"]["test"]]
LOCK = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
PYTHONS = ["3.11", "3.12", "3.13"]


def locked(python):
    """The version of each package that the lock has for a Python on Linux."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    environment |= {"platform_python_implementation": "CPython", "extra": ""}
    found = {}
    for line in LOCK:
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate(environment):
            ((operator, version),) = ((s.operator, s.version) for s in pin.specifier)
            assert operator == "==", line
            name = canonicalize_name(pin.name)
            assert name not in found, line
            found[name] = Version(version)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_a_version_that_fits_each_requirement(python):
    versions = locked(python)
    for requirement in (*ASKED, *TESTED):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in .ci/constraints.txt: docs/dependencies.md"
        assert version in requirement.specifier, (
            f"{requirement.name} {version} is not {requirement.specifier}"
        )


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_all_that_is_needed_to_run(python):
    assert {*licenses.closure()} <= {*locked(python)}


def test_the_lock_names_no_place_that_packages_come_from():
    for line in LOCK:
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; [\w\s.'<>=!]+)?", line), line


def test_oldest_and_newest_jax_are_those_that_ci_tests():
    assert [str(locked(python)["jax"]).rsplit(".", 1)[0] for python in PYTHONS] == ["0.10", "0.11", "0.11"]


# Licenses


def listed():
    page = (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {name: declared for name, declared, _ in rows[2:]}


def test_licenses_are_listed_as_the_installed_packages_declare_them():
    table = listed()
    for requirement in ASKED:
        name = canonicalize_name(requirement.name)
        assert name in table, f"{name}: python -m benchmarks.licenses > docs/licenses.md"
        expected = licenses.families(licenses.license_of(name))
        assert licenses.families(table[name]) == expected, name
        assert expected, name


def test_every_license_is_known_and_none_asks_for_more_than_to_be_named():
    for name, declared in listed().items():
        assert licenses.families(declared), (name, declared)
        assert "GPL" not in licenses.families(declared), name


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3-Clause BSD License", {"BSD"}),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib", {"BSD", "MIT"}),
        ("MIT-CMU", {"MIT-CMU"}),
        ("Apache Software License", {"Apache"}),
        ("GNU Lesser General Public License v3 (LGPLv3)", {"GPL"}),
        ("not declared", set()),
    ],
)
def test_families_of_licenses(text, found):
    assert licenses.families(text) == found


# No code out of data

FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "dill.load", "dill.loads"),
    *("cloudpickle.load", "cloudpickle.loads", "torch.load", "pandas.read_pickle"),
}
ALLOWED = {"pddm_jax.data.prepare.beam": {"pickle.loads"}}  # of a digest that it compares first


def code_out_of_data(source):
    """The names of `FORBIDDEN` in a source text, and calls with allow_pickle other than False."""
    tree = ast.parse(source)
    full = {}  # what a name stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            full |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            yield from {f"{node.module}.{a.name}" for a in node.names} & FORBIDDEN
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from {f"{full.get(node.value.id, node.value.id)}.{node.attr}"} & FORBIDDEN
        elif isinstance(node, ast.Name):
            yield from {node.id} & FORBIDDEN
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield from () if ast.unparse(node.value) == "False" else ["allow_pickle"]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_makes_code_of_data(module):
    found = {*code_out_of_data(MODULES[module].read_text(encoding="utf-8"))}
    assert found == ALLOWED.get(module, set())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle\npickle.load(file)", "pickle.load"),
        ("import pickle as p\nclass X(p.Unpickler): pass", "pickle.Unpickler"),
        ("from pickle import loads as read", "pickle.loads"),
        ("def f(): return eval('1')", "eval"),
        ("numpy.load(path, allow_pickle=True)", "allow_pickle"),
        ("numpy.load(path, allow_pickle=given)", "allow_pickle"),
        ("import yaml\nyaml.load(text)", "yaml.load"),
        ("import torch\ntorch.load(path)", "torch.load"),
    ],
)
def test_code_out_of_data_is_seen(source, found):
    assert [*code_out_of_data(source)] == [found]


# No network

WATCHED = """
import importlib, runpy, sys

seen = []

def refuse(event, arguments):
    address = arguments[-1] if event == "socket.connect" else arguments[0] if arguments else None
    local = event == "socket.connect" and isinstance(address, (str, bytes))  # a socket of this machine
    if event in EVENTS and not local:
        seen.append((event, repr(address)))
        raise OSError("no network here")

EVENTS = {f"socket.{call}" for call in ("connect", "getaddrinfo", "gethostbyname", "sendto")}
sys.addaudithook(refuse)
"""

IMPORTS = (
    WATCHED
    + """
for module in sys.argv[1:]:
    importlib.import_module(module)
print(len(sys.argv) - 1, seen)
"""
)

RUN = (
    WATCHED
    + """
del sys.argv[0]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    print(seen)
"""
)


def test_no_module_reaches_for_the_network_when_it_is_imported(python):
    status, out, err = python("-c", IMPORTS, *sorted(MODULES))
    assert status == 0, err
    assert out.splitlines()[-1] == f"{len(MODULES)} []"


def test_the_network_would_be_seen(python):
    code = IMPORTS.replace(
        "importlib.import_module(module)", "import socket; socket.create_connection((module, 9))"
    )
    status, _, err = python("-c", code, "localhost")
    assert status == 1
    assert "no network here" in err


@pytest.mark.long
def test_a_run_does_not_reach_for_the_network(python, tmp_path):
    for label, number in itertools.product("abcdefgh", range(4)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.png")
    fields = f"data.root={tmp_path}/data", "data.image_size=16", "data.classes_per_batch=4", "train.steps=2"
    arguments = [f"--workdir={tmp_path}/run", *(f"--config.{field}" for field in fields)]
    status, out, err = python("-c", RUN, "experiments.folder", *arguments)
    assert status == 0, err
    assert (tmp_path / "run" / "results.json").is_file()
    assert out.splitlines()[-1] == "[]"
