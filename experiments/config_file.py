"""Config files: `--config=FILE.py[:VARIANT]`, read with one-line errors for any fault of the file."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from pddm_jax.config.old_names import NEW_NAMES
from pddm_jax.config.rules import EVALUATIONS, GROUPS, MISSING, NONE, RULES, suggestion
from pddm_jax.system.cli import check_file
from pddm_jax.system.console import one_line


class Arguments(NamedTuple):
    """A command line without the arguments that set a field to None, and the names of those fields."""

    rest: list[str]
    none: list[str]


def read(spec: str) -> ConfigDict:
    """Run a config file, and return the config that its `get_config` returns.

    Args:
        spec: FILE.py, or FILE.py:VARIANT; the variant is the argument of `get_config`.

    Raises:
        ValueError: the file cannot be run, or has no `get_config` that returns a ConfigDict.
        OSError: the file does not exist, or is not a regular file.
    """
    name, colon, variant = spec.partition(":")
    if not name.strip():
        raise ValueError("--config must not be empty: give FILE.py or FILE.py:VARIANT")
    check_file("--config", Path(name))
    try:
        get_config = runpy.run_path(name).get("get_config")
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"--config: {name}{line}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"--config: {name} cannot be run: {error_text(error)}") from error
    if not callable(get_config):
        raise ValueError(
            f"--config: {name} has no function get_config: define one that returns a ConfigDict"
        )
    try:
        config = get_config(variant) if colon else get_config()
    except ValueError as error:
        raise ValueError(f"--config: {spec}: {one_line(str(error)) or error_text(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"--config: get_config of {spec} failed: {error_text(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"--config: get_config of {spec} must return a ConfigDict, got {type(config).__name__}"
        )
    return config


def error_text(error: BaseException) -> str:
    """The type and the message of an exception in one line."""
    message = one_line(str(error))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def given(arguments: list[str]) -> Iterator[str]:
    """The values of --config on a command line."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("-config", "--config"):
            yield value if equals else following


def _fields_of(arguments: list[str]) -> Iterator[str]:
    """The fields that a command line sets: NAME of each --config.NAME."""
    for argument in arguments:
        if found := re.match(r"--?config[.]([^=]*)", argument, re.DOTALL):
            yield found[1]


def check_names(arguments: list[str]) -> None:
    """Raise a ValueError for an argument that uses the old name of a field, or the name of none."""
    for field in _fields_of(arguments):
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)?", field):
            raise ValueError(
                f"--config.{field} names no field: give --config.FIELD=VALUE or --config.GROUP.FIELD=VALUE"
            )
        if field in NEW_NAMES:
            raise ValueError(f"--config.{field} was renamed: use --config.{NEW_NAMES[field]}")
        if field not in RULES and field not in GROUPS:
            raise ValueError(f"{field} is not a config field: {suggestion(field)}")


def check_fields(arguments: list[str], config: ConfigDict) -> None:
    """Raise a ValueError for an argument that sets a field that this config does not have."""
    for name in _fields_of(arguments):
        group, _, field = name.rpartition(".")
        if name not in RULES or field in (config.get(group, {}) if group else config):
            continue
        if group in EVALUATIONS and group not in config:
            raise ValueError(
                f"{name}: this config has no group {group}, which only evaluation {group!r} reads"
            )
        raise ValueError(f"{name} {MISSING}")


def check_value(problem: str, arguments: list[str]) -> None:
    """Raise a ValueError with the allowed values of a field, or the field that an unknown flag may mean.

    Args:
        problem: the message of absl, `flag --config.FIELD=VALUE: ...` or `Unknown command line flag 'X'`.
        arguments: the command line.
    """
    if unknown := re.match(r"Unknown command line flag '([\w.]+)'", problem):
        flag = unknown[1]
        meant = [x for x in RULES if flag in (x, x.rpartition(".")[2]) or x == f"{flag}.name"]
        if meant:
            raise ValueError(f"unknown flag --{flag}: did you mean --config.{meant[0]}?")
    name = problem.partition("=")[0].removeprefix("flag --config.")
    if name in GROUPS:
        raise ValueError(f"--config.{name} is a group of fields: give --config.{name}.FIELD=VALUE")
    if name in RULES:
        of_flag = f"config.{name}="
        values = [x.partition("=")[2] for x in arguments if x.lstrip("-").startswith(of_flag)]
        RULES[name].check(name, values[-1] if values else problem.partition("=")[2])


def with_file_first(arguments: list[str]) -> list[str]:
    """A command line with the --config FILE before all other flags, as ml_collections expects it."""
    files: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument in ("-config", "--config"):
            files += [argument, *(x for x in [next(remaining, None)] if x is not None)]
        else:
            (files if re.match("--?config=", argument) else rest).append(argument)
    return [*rest[:1], *files, *rest[1:]]


def without_none(arguments: list[str]) -> Arguments:
    """Take `--config.GROUP.FIELD=None` out of a command line, if the field may be None.

    The parser of numbers rejects the word "None", and the parser of strings keeps it as a string. If a
    field is set more than once, its last value counts.
    """
    rest: list[str] = []
    none: dict[str, None] = {}
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        field = flag.lstrip("-").removeprefix("config.")
        if flag.lstrip("-") == field or field not in RULES or not RULES[field].optional:
            rest.append(argument)
            continue
        own = [argument] if equals else [argument, *(x for x in [next(remaining, None)] if x is not None)]
        if (value if equals else own[-1]) in NONE:
            none[field] = None
        else:
            none.pop(field, None)
            rest += own
    return Arguments(rest, [*none])
