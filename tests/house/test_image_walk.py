"""The path of an image from its file to a batch, as docs/architecture.md lists it; every call goes down."""

import re
import sys
import threading
from contextlib import closing

import pytest

from pddm_jax.data import PKSampler, load, make_transform, train_batches
from tests.helpers.builders import write_images
from tests.house.layers import MODULES, ROOT, layers, module_name

BY_FILE = {str(path): module for module, path in MODULES.items()}


@pytest.fixture
def calls():
    """The calls (caller, called) between modules of the project, in all threads, while the test runs."""
    found = set()

    def watch(frame, event, argument):
        called, caller = BY_FILE.get(frame.f_code.co_filename), frame.f_back
        if event != "call" or called is None:
            return
        while caller is not None and caller.f_code.co_filename not in BY_FILE:
            caller = caller.f_back
        found.add((caller and BY_FILE[caller.f_code.co_filename], called))

    former = sys.getprofile()
    threading.setprofile(watch)
    sys.setprofile(watch)
    yield found
    sys.setprofile(former)
    threading.setprofile(None)


def walk():
    """The modules of the numbered list under "The path of an image"."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("## The path of an image\n")[1].split("\n## ")[0]
    files = re.findall(r"^\d+\. `([^`]+)`", section, re.MULTILINE)
    return [module_name(ROOT / "pddm_jax" / file) for file in files]


def test_the_files_of_the_walk_exist_and_are_named_once():
    assert {*walk()} <= {*MODULES}
    assert len({*walk()}) == len(walk()) <= 14


def test_an_image_is_read_by_the_files_of_the_walk_and_no_call_goes_up(tmp_path, calls):
    write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "abcd" for n in range(3)))
    data = load("folder", str(tmp_path), None, 0).train
    transform = make_transform("crop", 8, 0, 0.5, True, 1.0, 0.1)
    calls.clear()
    sampler = PKSampler(data.labels, 2, 2, range(2), 0)
    with closing(train_batches(data, sampler, transform, 0)) as batches:
        assert next(batches).images.shape == (4, 8, 8, 3)
    level = layers()
    assert not [(a, b) for a, b in calls if a and a != b and level[a] < level[b]]
    helpers = {f"pddm_jax.{name}" for name in ("data.sampler", "data.streams", "system.processes")}
    assert {called for _, called in calls} - helpers == {*walk()[:5]}
