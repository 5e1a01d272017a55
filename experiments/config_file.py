"""Config files: `--config=FILE.py[:VARIANT]`, with one line for whatever is wrong with the file."""

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from pddm_jax.config.old_names import NEW_NAMES
from pddm_jax.config.rules import NONE, RULES
from pddm_jax.system.cli import check_file
from pddm_jax.system.console import one_line


class Arguments(NamedTuple):
    """A command line without the arguments that set a field to None, and these fields."""

    rest: list[str]
    none: list[str]


def read(spec: str) -> ConfigDict:
    """What `get_config` of a file returns.

    Args:
        spec: the file, and after a colon the variant, which is given to `get_config`.

    Raises:
        ValueError: the file cannot be run, or has no `get_config` that returns a ConfigDict.
        OSError: it is not there, or no file.
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
        raise ValueError(f"--config: {name} cannot be run: {told(error)}") from error
    if not callable(get_config):
        raise ValueError(f"--config: {name} has no function get_config")
    try:
        config = get_config(variant) if colon else get_config()
    except ValueError as error:
        raise ValueError(f"--config: {spec}: {one_line(str(error)) or told(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"--config: get_config of {spec} failed: {told(error)}") from error
    if not isinstance(config, ConfigDict):
        raise ValueError(
            f"--config: get_config of {spec} must return a ConfigDict, got {type(config).__name__}"
        )
    return config


def told(error: BaseException) -> str:
    """An exception's type and words in one line."""
    words = one_line(str(error))
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def given(arguments: list[str]) -> Iterator[str]:
    """The config files that a command line names."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, equals, value = argument.partition("=")
        if flag in ("-config", "--config"):
            yield value if equals else following


def check_names(arguments: list[str]) -> None:
    """Raise a ValueError for an argument that names a field by its old name."""
    for argument in arguments:
        field = argument.partition("=")[0].lstrip("-").removeprefix("config.")
        if field in NEW_NAMES:
            raise ValueError(f"--config.{field}: the field is called --config.{NEW_NAMES[field]} now")


def without_none(arguments: list[str]) -> Arguments:
    """Take `--config.GROUP.FIELD=None` out of a command line, where the field may be None.

    The parser of a number does not know the word, and that of a text takes it for a text. What stands last
    for a field counts.
    """
    rest: list[str] = []
    none: dict[str, None] = {}
    left = iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        field = flag.lstrip("-").removeprefix("config.")
        if flag.lstrip("-") == field or field not in RULES or not RULES[field].optional:
            rest.append(argument)
            continue
        words = [argument] if equals else [argument, *(x for x in [next(left, None)] if x is not None)]
        if (value if equals else words[-1]) in NONE:
            none[field] = None
        else:
            none.pop(field, None)
            rest += words
    return Arguments(rest, [*none])
