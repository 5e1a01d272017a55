"""The path of an image from its file to the loss, as docs/architecture.md lists it; all calls go down."""

import re
from contextlib import closing

import jax
import pytest

from pddm_jax import PDDM
from pddm_jax.data import PKSampler, load, make_transform, train_batches
from pddm_jax.losses.objectives import make_objective
from pddm_jax.networks import make_network
from pddm_jax.sharding import data_mesh, global_batches
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import init_state
from pddm_jax.training.step import fit, make_train_step
from tests.helpers.builders import write_images
from tests.helpers.training import SGD
from tests.house.layers import MODULES, ROOT, layers, module_name
from tests.house.trace import module_of, watched_calls

MOST_FILES = 14


@pytest.fixture
def calls():
    """The calls (caller, called) between modules of the project while the test runs."""
    found = set()
    with watched_calls(lambda caller, called: found.add((caller and module_of(caller), module_of(called)))):
        yield found


def section():
    """The section "The path of an image"."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return text.split("## The path of an image\n")[1].split("\n## ")[0]


def modules(text):
    """The modules of all files that a text names."""
    return [module_name(ROOT / "pddm_jax" / file) for file in re.findall(r"`([\w/]+\.py)`", text)]


def walk():
    """The modules that the numbered list names, other backbones and backends included."""
    items = re.findall(r"^\d+\. .*(?:\n +.*)*", section(), re.MULTILINE)
    return modules("\n".join(items))


OFF_THE_PATH = {
    "pddm_jax.checks",
    "pddm_jax.numerics",
    "pddm_jax.sharding",
    "pddm_jax.data.sampler",
    "pddm_jax.data.streams",
    "pddm_jax.system.processes",
    "pddm_jax.system.regular",
    "pddm_jax.training.optimizer",
}
"""Modules that many others call, or that no image passes through."""


def test_the_files_of_the_walk_exist_and_are_named_once():
    named = modules(section().split("Off the path: ")[1].split("\n\nTest images")[0])
    assert {*named} == OFF_THE_PATH
    assert {*walk(), *named} <= {*MODULES}
    assert len({*walk()}) == len(walk()) <= MOST_FILES
    assert f"{len(walk())} files" in section()


def test_a_training_step_passes_through_the_files_of_the_walk_and_no_call_goes_up(tmp_path, calls):
    write_images(tmp_path, *(f"{c}/{n}.jpg" for c in "abcd" for n in range(3)))
    data, mesh = load("folder", str(tmp_path), None, 0).train, data_mesh()
    transform = make_transform("crop", 8, 0, 0.5, True, 1.0, 0.1)
    images = 8 * mesh.size
    sampler = PKSampler(data.labels, 2, images // 2, range(1, 2), 0)
    network, optimizer = make_network("small_cnn", embedding_dim=4), make_optimizer(**SGD, steps=1)
    loss, _ = make_objective("pddm", pairs=images * (images // 2 - 1) // 2)
    step = make_train_step(network, loss, optimizer, mesh)
    state = init_state(network, PDDM(4, 4), optimizer, (8, 8, 3), 0, mesh)
    jax.clear_caches()  # whatever another test has traced is traced again
    calls.clear()
    with closing(train_batches(data, sampler, transform, 0)) as batches:
        state = fit(state, step, global_batches(batches, mesh), 1, lambda step, state, logs: bool(logs()))
    assert int(state.step) == 1
    level = layers()
    assert not [(a, b) for a, b in calls if a and a != b and level[a] < level[b]]
    assert {called for _, called in calls} - OFF_THE_PATH == {*walk()}
