"""Whether a command ended as it may: equal to the undisturbed one, or refused in one line."""

from pathlib import Path
from typing import NamedTuple

from tests.drills.launcher import Ended
from tests.drills.targets import Target

EQUAL, REFUSED, BAD = "equal", "refused", "bad"
ODD = ("Traceback", "*** ", "Exception ignored", "leaked", "Fatal Python", "core dumped")


class Verdict(NamedTuple):
    """How a trial ended, with what was seen."""

    result: str
    seen: str


def odd(ended: Ended) -> str:
    """What no command may do, however it ends; "" where it has not."""
    if ended.status is None:
        return f"hung: {ended.err[-300:]}"
    found = [word for word in ODD if word in ended.err]
    return f"says {found[0]!r}: {ended.err[-600:]}" if found else ""


def refusal(ended: Ended, *named: str) -> str:
    """What is wrong with how a command refused; "" where it did so in one line that names one of these."""
    lines = ended.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if ended.status not in (1, 2):
        return f"status {ended.status}: {ended.err[-300:]}"
    if len(errors) != 1 or lines[-1] != errors[0]:
        return f"not one line: {ended.err[-300:]}"
    if "probably a bug" in errors[0]:
        return f"unforeseen: {errors[0]}"
    if named and not any(name in errors[0] for name in named):
        return f"does not name {' or '.join(named)}: {errors[0]}"
    return ""


def not_whole(target: Target, folder: Path) -> str:
    """What is there under its final name but half-written; "" where nothing is."""
    try:
        target.whole(folder)
    except Exception as error:
        return f"half-written: {type(error).__name__}: {error}"
    return ""


def unequal(target: Target, folder: Path, expected: object) -> str:
    """How what is left differs from what an undisturbed command leaves; "" where it does not."""
    try:
        left = target.left(folder)
    except Exception as error:
        return f"not whole: {type(error).__name__}: {error}"
    return "" if left == expected else f"differs from the undisturbed one: {str(left)[:300]}"


def judged(ended: Ended, target: Target, folder: Path, expected: object, *named: str) -> Verdict:
    """Equal, refused by name, or bad."""
    if problem := odd(ended):
        return Verdict(BAD, problem)
    if ended.status == 0:
        problem = unequal(target, folder, expected)
        return Verdict(BAD, problem) if problem else Verdict(EQUAL, "")
    problem = refusal(ended, *named)
    return Verdict(BAD, problem) if problem else Verdict(REFUSED, ended.err.splitlines()[-1])
