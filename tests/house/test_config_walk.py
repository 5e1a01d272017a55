"""The path of a config through a run, as docs/architecture.md lists it: no call hands it up."""

import inspect
import re
from functools import partial

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from experiments.configs import fashion_mnist
from experiments.runner import run
from tests.house.layers import MODULES, ROOT, layers, module_name
from tests.house.trace import module_of, watched_calls

CONFIGS = ConfigDict, FrozenConfigDict
MOST_FILES = 10


def holds_config(x, seen=frozenset()):
    """Whether x is a config, a group of one, or holds one: as an attribute, an element or an argument."""
    if isinstance(x, CONFIGS):
        return True
    if isinstance(x, partial):
        held = [*x.args, *x.keywords.values()]
    elif isinstance(x, dict):
        held = x.values()
    elif isinstance(x, tuple | list):
        held = x
    elif type(x).__module__.startswith(("pddm_jax", "experiments")):
        held = vars(x).values() if hasattr(x, "__dict__") else ()
    else:
        return False
    return id(x) not in seen and any(holds_config(value, seen | {id(x)}) for value in held)


def takes_config(frame):
    """Whether an argument of a call holds a config."""
    code = frame.f_code
    several = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + several]
    return any(holds_config(frame.f_locals[name]) for name in names if name in frame.f_locals)


def listed():
    """The modules that the numbered list of "The path of a config" names, and how many it says they are."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("## The path of a config\n")[1].split("\n## ")[0]
    items = "\n".join(re.findall(r"^\d+\. .*(?:\n +.*)*", section, re.MULTILINE))
    files = [ROOT / file for file in re.findall(r"`((?:pddm_jax|experiments)/[\w/]+\.py)`", items)]
    return [module_name(file) for file in files], int(re.search(r"(\d+) files", section)[1])


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (ConfigDict({"a": 1}), True),
        (FrozenConfigDict({"a": 1}), True),
        ({"a": 1}, False),
        (None, False),
        (lambda config: config, False),
        ([({"a": ConfigDict({"b": 1})},)], True),
        (partial(print, ConfigDict({"a": 1})), True),
        (partial(print, x=3), False),
    ],
)
def test_a_config_is_seen(x, expected):
    assert holds_config(x) is expected


@pytest.mark.long
def test_a_run_hands_its_config_down_through_the_files_of_the_list(fashion_root, tmp_path):
    config = fashion_mnist.get_config()
    config.data.update(root=str(fashion_root), classes_per_batch=2, images_per_class=4)
    config.network.update(embedding_dim=4, unit_dim=3)
    config.train.update(steps=1, eval_every=1)
    found = set()

    def note(caller, called):
        # A callback that holds the config itself is not handed it by its caller.
        if caller is not None and takes_config(called) and takes_config(caller):
            found.add((module_of(caller), module_of(called)))

    with watched_calls(note):
        run(config, tmp_path / "run", "fashion_mnist")
    level = layers()
    assert not [(a, b) for a, b in found if a != b and level[a] < level[b]]
    files, count = listed()
    assert {module for call in found for module in call} == {*files}
    assert len({*files}) == len(files) == count <= MOST_FILES
    assert {*files} <= {*MODULES}
