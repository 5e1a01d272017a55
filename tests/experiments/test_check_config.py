"""Every field of every config has a range, and what a run cannot use is refused before data is read."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, FrozenConfigDict

from experiments import command, compare, config_file, runner
from experiments.configs import (
    cars196,
    cub200,
    fashion_mnist,
    folder,
    icons,
    imagenet10k,
    imagenet2010,
    quickstart,
    sop,
    zero_shot,
)
from pddm_jax.config import check as module
from pddm_jax.config import defaults
from pddm_jax.config.check import accepted, check_machine, fields, warnings
from pddm_jax.config.old_names import NEW_NAMES, with_new_names
from pddm_jax.config.rules import FLAG, RULES

MODULES = (
    cars196,
    cub200,
    fashion_mnist,
    folder,
    icons,
    imagenet10k,
    imagenet2010,
    quickstart,
    sop,
    zero_shot,
)
VARIANTS = {
    imagenet2010: ("glyphs", "imagenet", "resnet50", "gpu", "pod"),
    imagenet10k: ("imagenet", "resnet50", "gpu", "pod"),
    zero_shot: ("glyphs", "ilsvrc2010"),
    quickstart: ("tuned", "paper"),
    fashion_mnist: ("tuned", "paper"),
}
CONFIGS = [
    module.get_config(variant)
    for module in MODULES
    for variant in VARIANTS.get(module, ("tuned", "paper", "lite0", "resnet50"))
]
TRANSFER, NAMING = imagenet2010.get_config("glyphs"), zero_shot.get_config()


def with_field(name, value):
    """A config of glyphs with this field, of any type."""
    of = {"transfer": TRANSFER, "zero_shot": NAMING}.get(name.partition(".")[0], quickstart.get_config())
    fields = of.to_dict()
    group, _, field = name.partition(".")
    if field:
        fields[group][field] = value
    else:
        fields[group] = value
    return ConfigDict(fields)


def test_every_field_has_a_rule_and_every_default_passes_its_own():
    seen = set()
    for config in CONFIGS:
        for name, value in fields(config):
            seen.add(name)
            RULES[name].check(name, value)
    assert {*RULES} == seen


def test_every_config_is_accepted_as_it_is():
    for config in CONFIGS:
        if config.network.pretrained is None:
            assert accepted(config).to_dict() == config.to_dict()


@pytest.mark.parametrize("name", sorted(RULES))
def test_absurd_values_are_refused_by_name_in_one_line(name):
    for value in (
        math.nan,
        math.inf,
        -2,
        [1, "a"],
        {"a": 1},
        "",
        b"x",
        10**400,
        1j,
        np.int64(3),
        "x" * 999 + "\0",
    ):
        if name in ("seed", "evaluation") and isinstance(value, dict):
            continue  # is a group
        with pytest.raises(ValueError, match=rf"^{name.replace('.', '[.]')} must be ") as caught:
            accepted(with_field(name, value))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_bool_is_no_number_and_a_number_no_bool(name):
    kind = RULES[name].accepts
    assert kind(True) == (RULES[name] is FLAG)
    assert not (kind(1) and kind(True))


BAD = [
    ("network.embedding_dim", 2_000_000_000, "0 to 65536"),
    ("optimizer.warmup", 3_000_000_000, "0 to 2147483647"),
    ("train.steps", 2**31, "1 to 2147483647"),
    ("train.steps", 0, "got 0"),
    ("train.log_every", 0, "got 0"),
    ("data.image_size", 10**9, "1 to 16384 or None"),
    ("data.max_pixels", None, "1 to 1099511627776, got None"),
    ("data.workers", 100_000, "0 to 256"),
    ("data.images_per_class", 1, "2 to"),
    ("data.classes_per_batch", 1, "2 to"),
    ("data.classes_per_batch", 4.0, "integer"),
    ("data.root", "  ", "not empty"),
    ("data.root", "a\0b", "not empty"),
    ("seed", 2**32, "4294967295"),
    ("seed", True, "True"),
    ("objective.margin", -0.5, "at least 0"),
    ("objective.temperature", 0.0, "at least"),
    ("optimizer.learning_rate", 1e39, "at most"),
    ("optimizer.learning_rate", 1e-40, "at least"),
    ("data.seen_test", 1.0, "below 1"),
    ("data.min_crop_area", 0.0, "above 0"),
    ("transfer.ways", (5, 0), "an integer from 1"),
    ("transfer.neighbours", (True,), "an integer from 1"),
    ("zero_shot.conse_top", 2.5, "an integer from 1"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_the_range_is_told(name, value, words):
    with pytest.raises(ValueError, match=words) as caught:
        accepted(with_field(name, value))
    assert str(caught.value).startswith(f"{name} must be ")


@given(value=st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.none()))
@settings(max_examples=200, deadline=None)
def test_a_rule_never_raises_anything_but_a_value_error(value):
    for name, rule in RULES.items():
        try:
            rule.check(name, value)
        except ValueError as error:
            assert str(error).startswith(f"{name} must be ")  # noqa: PT017


# ------------------------------------------------------------------------------ between fields and files


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data.shift": 28}, r"data\.shift must be below .* 28 pixels, got 28"),
        ({"data.name": "folder"}, r'data\.augment must be "crop" for folder'),
        ({"data.augment": "crop"}, r"data\.image_size must be given"),
        ({"data.crop": "bbox"}, r'data\.crop must be "none" for glyphs'),
        ({"data.classes": "x"}, r"data\.classes: there is no file x"),
        ({"data.test_classes": "/nowhere"}, r"data\.test_classes: there is no file /nowhere"),
        ({"network.pretrained": "/dev/zero"}, r"network\.pretrained: /dev/zero is not a regular file"),
        ({"network.pretrained": "/nowhere"}, r"network\.pretrained: there is no file /nowhere"),
        (
            {"objective.name": "multi_similarity", "objective.alpha": 0.0},
            r"objective\.alpha must be above 0",
        ),
        (
            {"data.classes_per_batch": 60_000, "data.images_per_class": 60_000},
            r"fewer than 2\*\*31 positive pairs, got 60000 and 60000",
        ),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changed, words):
    config = quickstart.get_config()
    config.update_from_flattened_dict(changed)
    with pytest.raises((ValueError, OSError), match=words):
        accepted(config)


@pytest.mark.parametrize("of", [TRANSFER, NAMING], ids=["transfer", "zero_shot"])
def test_a_group_of_another_evaluation_is_refused(of):
    config, group = of.copy_and_resolve_references(), of.evaluation
    config.evaluation = "retrieval"
    with pytest.raises(ValueError, match=rf"evaluation is 'retrieval', but .* group '{group}'") as caught:
        accepted(config)
    assert "\n" not in str(caught.value)


def test_lists_of_classes_are_for_imagenet(tmp_path):
    (tmp_path / "ids").write_text("n0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.classes applies only to imagenet2010.*not to 'glyphs'"):
        accepted(with_field("data.classes", str(tmp_path / "ids")))
    with pytest.raises(IsADirectoryError, match=r"data\.classes: .* is a folder: expected a file"):
        accepted(with_field("data.classes", str(tmp_path)))


def test_fields_that_are_missing_or_unknown_are_named():
    config = quickstart.get_config().to_dict()
    del config["train"]["steps"]
    with pytest.raises(ValueError, match=r"^train\.steps is missing"):
        accepted(ConfigDict(config))
    with pytest.raises(ValueError, match=r"data\.rot is not a config field"):
        accepted(with_field("data.rot", 1))
    with pytest.raises(ValueError, match=r"^more is not a config field"):
        accepted(with_field("more", 1))
    with pytest.raises(ValueError, match=r"must be a ConfigDict, got dict"):
        accepted({})


@pytest.mark.parametrize("word", ["None", "none"])
def test_the_word_none_is_none_where_a_field_may_be(word):
    for name in ("network.pretrained", "data.root", "objective.dtype", "objective.mining_scope"):
        group, field = name.split(".")
        assert accepted(with_field(name, word))[group][field] is None
    with pytest.raises(ValueError, match=rf"objective\.name must be one of .* got '{word}'"):
        accepted(with_field("objective.name", word))


def test_a_batch_must_divide_over_the_devices_and_fit_into_memory(monkeypatch):
    config = FrozenConfigDict(quickstart.get_config())  # 16 classes x 4 images
    check_machine(config, 8)
    with pytest.raises(ValueError, match="16 x 4 images cannot be divided evenly among 3 devices"):
        check_machine(config, 3)
    parts = with_field("network.microbatches", 5)
    with pytest.raises(ValueError, match=r"network\.microbatches must divide .* 16 x 4 / 2, got 5"):
        check_machine(FrozenConfigDict(parts), 2)
    monkeypatch.setattr(module, "memory", lambda: 2**33)
    for name, value in (("network.unit_dim", 30_000), ("data.image_size", 600)):
        with pytest.raises(ValueError, match=rf"{name} must be smaller: .* has 8\.0 GiB"):
            check_machine(FrozenConfigDict(with_field(name, value)), 1)
    photos = cars196.get_config("tuned")
    photos.data.update(classes_per_batch=10_000, image_size=224)
    with pytest.raises(ValueError, match=r"data\.classes_per_batch, .* must be smaller"):
        check_machine(FrozenConfigDict(photos), 1)
    check_machine(FrozenConfigDict(photos), 32, processes=32)  # a share each


def test_a_rate_that_never_rises_to_its_height_is_told():
    config = quickstart.get_config()
    assert warnings(FrozenConfigDict(config)) == []
    config.train.steps = 50
    (warning,) = warnings(FrozenConfigDict(config))
    assert "optimizer.warmup 100 is not below train.steps 50" in warning


def test_nothing_is_read_or_made_before_the_config_is_accepted(monkeypatch, tmp_path):
    monkeypatch.setattr(runner.data, "load_parts", None)
    workdir = tmp_path / "run"
    for name, value, _ in BAD:
        if not name.startswith(("transfer", "zero_shot")):
            with pytest.raises(ValueError, match=name):
                runner.run(with_field(name, value), workdir, "test")
    with pytest.raises(ValueError, match="needs a config with the group 'zero_shot'"):
        runner.run(with_field("evaluation", "zero_shot"), workdir, "test")
    with pytest.raises(ValueError, match="seed must be"):
        compare.compare(quickstart.get_config(), workdir, ["pddm"], [0, -1])
    assert not [*tmp_path.iterdir()]


# --------------------------------------------------------------------------------- config files and flags


def test_a_config_file_can_import_base(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from experiments.configs import base\n\n\n"
        "def get_config(variant=base.VARIANTS[1]):\n    return base.get_config(variant)\n",
        encoding="utf-8",
    )
    assert config_file.read(str(path)).to_dict() == defaults.get_config("paper").to_dict()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", "line 1: "),
        ("x = 1\n", "has no function get_config"),
        ("get_config = 1\n", "has no function get_config"),
        ("def get_config():\n    return {}\n", "must return a ConfigDict, got dict"),
        ("def get_config():\n    pass\n", "must return a ConfigDict, got NoneType"),
        ("def get_config():\n    raise RuntimeError('a\\nb')\n", "RuntimeError: a b$"),
        ("def get_config(variant):\n    return 1\n", "missing 1 required positional argument"),
        ("import sys\nsys.exit(1)\n", "SystemExit: 1"),
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("\0", "null bytes"),
    ],
)
def test_a_file_that_is_no_config_is_told(text, words, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words) as caught:
        config_file.read(str(path))
    assert str(caught.value).startswith(f"--config: {path}") or "get_config of" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_no_config(tmp_path):
    for spec in ("", " ", ":paper", "/nowhere.py", str(tmp_path), "/dev/zero"):
        with pytest.raises((ValueError, OSError), match=r"^--config"):
            config_file.read(spec)
    path = f"{command.CONFIGS}/quickstart.py"
    assert config_file.read(path).to_dict() == quickstart.get_config().to_dict()
    assert config_file.read(f"{path}:paper").objective.mining_scope == "batch"
    with pytest.raises(ValueError, match=r"'paper'.*'papr'"):
        config_file.read(f"{path}:papr")


@pytest.mark.parametrize(
    ("arguments", "rest", "none"),
    [
        (["--config.data.image_size=None"], [], ["data.image_size"]),
        (["-config.data.image_size", "none"], [], ["data.image_size"]),
        (["--config.data.image_size=3"], ["--config.data.image_size=3"], []),
        (["--config.seed=None"], ["--config.seed=None"], []),
        (["--workdir=None", "None"], ["--workdir=None", "None"], []),
        (["--config.data.root", "x", "y"], ["--config.data.root", "x", "y"], []),
        (["--config.data.root"], ["--config.data.root"], []),
        (
            ["--config.objective.alpha=None", "--config.objective.alpha=1"],
            ["--config.objective.alpha=1"],
            [],
        ),
        (["--config.data.root=x", "--config.data.root=None"], ["--config.data.root=x"], ["data.root"]),
    ],
)
def test_none_on_the_command_line(arguments, rest, none):
    assert config_file.without_none(arguments) == (rest, none)


def test_all_fields_of_base_are_flags_of_a_kind(tmp_path):
    """Fields without a value have a type, which the command line needs."""
    config = defaults.get_config("tuned")
    for name, value in fields(config):
        group, _, field = name.partition(".")
        if value is None:
            assert config[group].get_type(field) in (str, int, float), name


def test_paths_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = folder.get_config()
    config.data.test_classes = "~/list.txt"
    with pytest.raises(FileNotFoundError, match=r"data\.test_classes: there is no file .*list\.txt"):
        accepted(config)
    (tmp_path / "list.txt").write_text("a\n")
    assert accepted(config).data.test_classes == "~/list.txt"
    for name in ("data.root", "data.classes", "data.test_classes", "network.pretrained", "transfer.root"):
        with pytest.raises(ValueError, match=f"{name}: no home folder is known for ~nobody-of-this-name"):
            accepted(with_field(name, "~nobody-of-this-name/x"))


@pytest.mark.parametrize(("old", "new"), NEW_NAMES.items())
def test_an_old_field_name_is_answered_by_the_new_one(old, new):
    with pytest.raises(ValueError, match=rf"^--config\.{old} was renamed: use --config\.{new}$"):
        config_file.check_names(["x", f"--config.{old}=1"])
    config = quickstart.get_config()
    group, _, field = old.partition(".")
    with config.unlocked():
        config[group][field] = None
    with pytest.raises(ValueError, match=rf"^{old} was renamed: use {new}$"):
        accepted(config)


def test_configs_of_old_runs_are_read_by_their_new_names():
    config = defaults.get_config("tuned").to_dict()
    old = {group: dict(fields) if isinstance(fields, dict) else fields for group, fields in config.items()}
    for name, new in NEW_NAMES.items():
        (group, field), (_, now) = name.split("."), new.split(".")
        old[group][field] = old[group].pop(now)
    assert old != config
    assert with_new_names(old) == config == with_new_names(config)
