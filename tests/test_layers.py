"""Imports go only downward."""

import ast
from fnmatch import fnmatch

import pytest
from conftest import ROOT

# Lowest first. A module may import from the layers before its own, not from its own.
LAYERS = (
    ("pddm_jax.system.early", "pddm_jax.types"),
    ("pddm_jax.system.console",),
    (
        *("pddm_jax.system.agreement", "pddm_jax.checks", "pddm_jax.system.cores"),
        *(
            "pddm_jax.system.digests",
            "pddm_jax.system.files",
            "pddm_jax.system.memory",
            "pddm_jax.system.peers",
            "pddm_jax.system.quiet",
        ),
        "pddm_jax.system.regular",
    ),
    ("pddm_jax.system.lock", "pddm_jax.system.signals"),
    ("pddm_jax.system.cli",),
    ("pddm_jax.evaluate.float_range", "pddm_jax.sharding"),
    ("pddm_jax.numerics", "pddm_jax.pddm.partners"),
    ("pddm_jax.pddm",),
    ("pddm_jax.pddm.kernels", "pddm_jax.pddm.kernels.weights"),
    ("pddm_jax.pddm.kernels.gpu", "pddm_jax.pddm.kernels.tpu"),
    ("pddm_jax.pddm.tiles",),
    ("pddm_jax.pddm.backends", "pddm_jax.pddm.scoring"),
    ("pddm_jax.pddm.mining",),
    ("pddm_jax.losses.double_header", "pddm_jax.losses"),
    ("pddm_jax.losses.objectives",),
    (
        "pddm_jax.networks.depthwise",
        "pddm_jax.networks.pointwise",
        "pddm_jax.networks.pretrained.tensor_layout",
    ),
    ("pddm_jax.networks.pretrained.tensor_pickle",),
    ("pddm_jax.networks.pretrained.torch_files",),
    ("pddm_jax.networks.pretrained.safetensors_files",),
    ("pddm_jax.networks.pretrained.tensors",),
    ("pddm_jax.networks.googlenet",),
    ("pddm_jax.networks.alexnet", "pddm_jax.networks.efficientnet_lite"),
    ("pddm_jax.networks.resnet", "pddm_jax.networks.small_cnn"),
    ("pddm_jax.networks.pretrained.load",),
    ("pddm_jax.networks",),
    ("pddm_jax.data.streams",),
    ("pddm_jax.data.images",),
    (
        "pddm_jax.data.closed_set",
        "pddm_jax.data.fashion_mnist",
        "pddm_jax.data.glyphs",
        "pddm_jax.data.sampler",
    ),
    ("pddm_jax.data.layouts", "pddm_jax.data.storage.rgb"),
    ("pddm_jax.data.storage.decode",),
    (
        "pddm_jax.data.notes",
        "pddm_jax.system.processes",
        "pddm_jax.data.storage.records",
        "pddm_jax.data.storage.tars",
        "pddm_jax.data.storage.tfds_store",
    ),
    ("pddm_jax.data.layouts.base", "pddm_jax.data.layouts.mat"),
    ("pddm_jax.data.layouts.tables", "pddm_jax.data.layouts.walk"),
    ("pddm_jax.data.layouts.cars196", "pddm_jax.data.layouts.cub200", "pddm_jax.data.layouts.folder"),
    ("pddm_jax.data.layouts.sop", "pddm_jax.data.prepare.shards", "pddm_jax.data.layouts.wnids"),
    ("pddm_jax.data.sources",),
    ("pddm_jax.data.prepare.beam", "pddm_jax.data.layouts.imagenet", "pddm_jax.data.protocols"),
    ("pddm_jax.data.layouts.by_name",),
    ("pddm_jax.data.prepare",),
    ("pddm_jax.data.transforms",),
    ("pddm_jax.data.pipeline",),
    ("pddm_jax.data",),
    ("pddm_jax.evaluate.top_k",),
    ("pddm_jax.evaluate.retrieval",),
    (
        "pddm_jax.evaluate.metrics",
        "pddm_jax.transfer",
        "pddm_jax.transfer.class_means",
        "pddm_jax.transfer.descriptions",
        "pddm_jax.transfer.hierarchy",
        "pddm_jax.transfer.linear_probe",
        "pddm_jax.transfer.neighbours",
        "pddm_jax.transfer.zero_shot",
    ),
    ("pddm_jax.transfer.classification", "pddm_jax.transfer.placement"),
    ("pddm_jax.train.diagnosis", "pddm_jax.train.loop"),
    ("pddm_jax.train.replay", "pddm_jax.train.checkpoint_files"),
    ("pddm_jax.train.checkpoint", "pddm_jax.train.restore"),
    ("pddm_jax.train.warm_start",),
    ("pddm_jax.train.writer",),
    ("pddm_jax",),
    ("pddm_jax.train.provenance",),
    ("pddm_jax.data.listing",),
    ("pddm_jax.embed",),
    ("experiments", "experiments.configs"),
    ("experiments.configs.base",),
    ("experiments.configs.photos",),
    ("experiments.configs.folder", "experiments.configs.transfers"),
    ("experiments.configs.*",),
    ("experiments.check_config", "experiments.machine", "experiments.plots", "experiments.results"),
    ("experiments.config_file", "experiments.replay", "experiments.resuming"),
    ("experiments.recipe",),
    ("experiments.training_setup",),
    ("experiments.schedule",),
    ("experiments.training_run",),
    ("experiments.runner",),
    ("experiments.naming", "experiments.retrieval", "experiments.transfer"),
    ("experiments.command",),
    ("experiments.*",),
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path for top in ("pddm_jax", "experiments") for path in (ROOT / top).rglob("*.py")
}


def layer(module):
    """The first layer that holds the module: exact names stand before the patterns that would too."""
    exact = [n for n, names in enumerate(LAYERS) if module in names]
    return (exact or [n for n, names in enumerate(LAYERS) if any(fnmatch(module, p) for p in names)])[0]


def imports(source, module, is_package=False):
    """The project's modules that a source text imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else base for name in inner]
        yield from (name for name in names if name.split(".")[0] in ("pddm_jax", "experiments"))


def upward(source, module, is_package=False):
    found = imports(source, module, is_package)
    return [name for name in found if name != module and layer(name) >= layer(module)]


def test_every_module_has_a_layer_and_every_named_layer_a_module():
    named = {name for names in LAYERS for name in names if "*" not in name}
    missing = [m for m in MODULES if m.startswith("pddm_jax") and m not in named]
    assert not missing, f"no layer for {missing}"
    assert not named - {*MODULES}
    assert len(MODULES) >= len(named)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_downward(module):
    path = MODULES[module]
    assert not upward(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith("pddm_jax")))
def test_the_library_does_not_know_the_experiments(module):
    path = MODULES[module]
    found = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert not [name for name in found if name.startswith("experiments")]


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from pddm_jax.pddm.scoring import pair_scores", "pddm_jax.pddm"),
        ("from pddm_jax import mining", "pddm_jax.pddm.scoring"),
        ("def f():\n    import pddm_jax.train.writer", "pddm_jax.types"),
        ("from pddm_jax import PDDM", "pddm_jax.losses"),
        ("from .sampler import PKSampler", "pddm_jax.data.glyphs"),
        ("from . import pipeline", "pddm_jax.data.sampler"),
        ("from experiments import quickstart", "experiments.runner"),
        ("from experiments import quickstart", "experiments.fashion_mnist"),
    ],
)
def test_an_upward_import_is_seen(source, module):
    assert upward(source, module)
