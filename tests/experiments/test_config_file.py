"""Command lines of experiments: config files and fields."""

import pytest

from experiments import config_file
from experiments.configs import cars196


def test_the_config_file_comes_first():
    given = [
        "prog",
        "--config.seed=1",
        "--config",
        "a.py",
        "--workdir=x",
        "--config=b.py:small",
        "--config",
    ]
    first = [
        "prog",
        "--config",
        "a.py",
        "--config=b.py:small",
        "--config",
        "--config.seed=1",
        "--workdir=x",
    ]
    assert config_file.with_file_first(given) == first
    assert config_file.with_file_first(["prog"]) == ["prog"]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.transfer.probe_steps=3", "this config has no group transfer, which only evaluation"),
        ("--config.zero_shot.ids=x", "this config has no group zero_shot, which only evaluation"),
    ],
)
def test_a_field_that_this_config_does_not_have_is_named(argument, words):
    config = cars196.get_config()
    with pytest.raises(ValueError, match=words):
        config_file.check_fields(["prog", argument], config)
    config_file.check_fields(
        ["prog", "config.transfer.ways", "--config.seed=1", "--config.data.root=x"], config
    )


def test_only_arguments_with_dashes_are_fields():
    config_file.check_names(["prog", "--config", "config.py", "--workdir", "config.v2", "--config.seed=1"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("train.steps", "abc", r"^train\.steps must be an integer from 1 to \d+, got 'abc'$"),
        ("data.flip", "abc", r"^data\.flip must be True or False, got 'abc'$"),
        ("objective.margin", "a\nb", r"^objective\.margin must be a number .* or None, got 'a\\nb'$"),
        ("data", "5", r"^--config\.data is a group of fields: give --config\.data\.FIELD=VALUE$"),
    ],
)
def test_a_value_of_another_type_is_told_what_is_allowed(name, value, words):
    flag = f"--config.{name}={value}"
    with pytest.raises(ValueError, match=words):
        config_file.check_value(f"flag {flag}: of absl", ["prog", flag])


@pytest.mark.parametrize(
    ("given", "meant"),
    [("objective", "objective.name"), ("train.steps", "train.steps"), ("steps", "train.steps")],
)
def test_a_flag_without_config_is_told_the_field(given, meant):
    with pytest.raises(ValueError, match=rf"^unknown flag --{given}: did you mean --config\.{meant}\?$"):
        config_file.check_value(f"Unknown command line flag '{given}'", ["prog"])


def test_errors_of_other_flags_are_left_to_absl():
    config_file.check_value("Unknown command line flag 'batch'", ["prog"])
    config_file.check_value("flag --batch=x: of absl", ["prog", "--batch=x"])
