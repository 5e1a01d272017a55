"""The short form of `python -m tests.drills.fuzz`: some inputs of every target, the same ones each time."""

import json
from collections import Counter

import pytest

from tests.drills import fuzz, fuzz_configs
from tests.drills.fuzz_core import Wrong, check_line

TARGETS = fuzz.targets()
INPUTS = {"images": 60, "folders": 15, "tables": 30, "lists": 20, "tars": 20, "weights": 60, "configs": 30}


SHORT = [*sorted(TARGETS.keys() - {"runs"}), pytest.param("runs", marks=pytest.mark.long)]


# Orbax's event loops may end late where a damaged checkpoint was read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", SHORT)
def test_inputs_of_every_kind_give_the_right_value_or_one_line(name):
    counts, failures = Counter(), []

    def report(kind, case, text):
        counts[kind] += 1
        if kind == "failures":
            failures.append((case, text))

    fuzz.fuzz(TARGETS[name], INPUTS.get(name, 8), 0, report)
    assert not failures
    assert counts["begun"] == counts["right values"] + counts["refusals"] > 0


@pytest.mark.parametrize("value", ["inf", "x", "(1", "None"])
def test_a_value_for_a_group_of_fields_is_refused_by_its_name(value):
    with pytest.raises(
        ValueError, match=r"--config\.data( is a group of fields: give --config\.data\.FIELD=|: )"
    ):
        fuzz_configs.define_and_parse("quickstart", [f"--config.data={value}"])


@pytest.mark.parametrize("name", ["", "1x", "data.", "seed!", "data..root", "data.root.x"])
def test_a_flag_without_a_name_of_a_field_is_refused(name):
    with pytest.raises(ValueError, match=rf"--config\.{name} names no field"):
        fuzz_configs.define_and_parse("quickstart", [f"--config.{name}=1"])


@pytest.mark.parametrize("text", ["", "a\nb: x", "x \x1b[1m", "x" * 9999, "no name of it", "x at 0x7f00"])
def test_what_is_not_one_readable_line_is_a_failure(text):
    with pytest.raises(Wrong):
        check_line(text, ("x",))
    check_line("x must be 1, got 2", ("x",))


def test_the_report_counts_and_says_what_reproduces_a_failure():
    found = {
        "a": (Counter({"right values": 2, "failures": 1}), [("(1, 'x')", "wrong")]),
        "b": (Counter(refusals=3), []),
    }
    text = fuzz.table(found, 5)
    assert "| a | 3 | 2 | 0 | 1 |" in text
    assert "| all | 6 | 2 | 3 | 1 |" in text
    assert "--target=a --case=\"(1, 'x')\"" in text
    assert json.dumps(found["a"][1]) == '[["(1, \'x\')", "wrong"]]'
