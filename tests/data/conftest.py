"""Data sets on disk that several tests of data read."""

import pytest
from absl import logging

from pddm_jax.data import protocols
from tests.helpers.builders import LAYOUTS, SMALL, picture


@pytest.fixture(scope="session", params=LAYOUTS)
def tree(request, tmp_path_factory):
    """The data set's name, the folder, and what is in it."""
    root = tmp_path_factory.mktemp("tree")
    name, make = LAYOUTS[request.param]
    return name, root, make(root)


@pytest.fixture
def small(monkeypatch):
    for name, counts in SMALL.items():
        monkeypatch.setitem(protocols.EXPECTED, name, counts)


@pytest.fixture
def many(tmp_path):
    """A folder of 30 images in three classes."""
    for n in range(30):
        picture(tmp_path / "many" / f"class {n % 3}" / f"{n:02d}.png", n)
    return tmp_path / "many"


@pytest.fixture
def warned(monkeypatch):
    """The warnings, a line each."""
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *arguments: lines.append(text % arguments))
    return lines
