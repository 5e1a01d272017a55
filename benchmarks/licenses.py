"""The licenses of all packages that the library needs: writes docs/licenses.md.

    python -m benchmarks.licenses > docs/licenses.md

It lists installed packages, without extras.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Set
from importlib.metadata import metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "pddm_jax"
ROOT = Path(__file__).parents[1]

FAMILIES = {
    "Apache": r"Apache",
    "MIT": r"\bMIT\b(?!-CMU)",
    "BSD": r"BSD",
    "MPL": r"MPL|Mozilla",
    "PSF": r"PSF|Python Software Foundation|matplotlib",
    "MIT-CMU": r"MIT-CMU|HPND",
    "GPL": r"GPL|General Public",
}
"""Patterns of the names of licenses, which releases of a package spell differently."""


def license_of(package: str) -> str:
    """The license that an installed package declares, on one line.

    The SPDX expression, or the classifiers, or the first line of the license text.
    """
    found = metadata(package)
    if found.get("License-Expression"):
        return found["License-Expression"]
    classifiers = [text.split(" :: ") for text in found.get_all("Classifier") or []]
    named = [parts[-1] for parts in classifiers if parts[0] == "License" and len(parts) > 2]
    if named:
        return ", ".join(sorted(named))
    lines = (found.get("License") or "").strip().splitlines()
    return lines[0].strip() if lines else "not declared"


def families(license: str) -> set[str]:
    """The families of licenses that a text names."""
    return {name for name, pattern in FAMILIES.items() if re.search(pattern, license)}


def direct() -> list[Requirement]:
    """The direct requirements of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(text) for text in project["dependencies"]]


def applying(requirements: Iterable[Requirement], extras: Set[str]) -> Iterator[Requirement]:
    """The requirements that apply to this machine, this Python and these extras."""
    for requirement in requirements:
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield requirement


def closure() -> dict[str, set[str]]:
    """All packages that the project needs by canonical name, each with the packages that require it."""
    found: dict[str, set[str]] = {}
    waiting = [(PROJECT, requirement) for requirement in direct()]
    seen = set()
    while waiting:
        user, requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        found.setdefault(name, set()).add(user)
        if (name, extras) not in seen:
            seen.add((name, extras))
            needed = map(Requirement, requires(name) or [])
            waiting += [(name, other) for other in applying(needed, extras)]
    return found


def main() -> None:
    """Print the page."""
    print("# Licenses\n")
    print("What `pip install pddm_jax` brings, without extras, and the licenses that the packages declare.")
    print("Written by `python -m benchmarks.licenses > docs/licenses.md`. pddm_jax itself: Apache-2.0.\n")
    print("| package | license | needed by |\n| --- | --- | --- |")
    for name, users in sorted(closure().items()):
        shown = PROJECT if PROJECT in users else ", ".join(sorted(users - {name}))
        print(f"| {name} | {license_of(name)} | {shown} |")


if __name__ == "__main__":
    main()
