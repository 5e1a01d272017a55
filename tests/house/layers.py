"""The measures of the code: sizes of functions and files, imports against the layers, lines of tests.

python -m tests.house.layers            # print the measures and everything beyond a limit
python -m tests.house.layers --write    # update the column of ideas in docs/architecture.md from docstrings

The layers are the rows of the tables in docs/architecture.md: a file imports only files below its row.
"""

import ast
import re
import statistics
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = "pddm_jax", "experiments"
MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_FILE, MEDIAN = 60, 300, 120
LEAST_TEST_LINES = 0.8  # per source line
ROW = re.compile(r"^\| (?P<files>`[^|]+?) +\| (?P<idea>.*?) *\|$", re.MULTILINE)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for top in PACKAGES for path in sorted((ROOT / top).rglob("*.py"))}


@cache
def table():
    """Rows of (modules, files as written, idea), from the top layer to the ground."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = []
    for row in ROW.finditer(text):
        patterns = re.findall(r"`([^`]+)`", row["files"])
        paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        rows.append(([module_name(path) for path in paths], row["files"], row["idea"]))
    return rows


@cache
def layers():
    """The layer of each module; 0 is the ground."""
    return {module: n for n, (modules, *_) in enumerate(reversed(table())) for module in modules}


def imports(source, module, is_package=False):
    """The modules of the project that a source text imports, at any place in it."""
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
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def imports_of(module):
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def upward(found, module):
    """The imports that are not below the module."""
    level = layers()
    return [name for name in found if name != module and level[name] >= level[module]]


def functions(path):
    """(name, lines) of each function of a file, with its docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def sizes_of_tests():
    """The lines of each file in tests/."""
    paths = sorted((ROOT / "tests").rglob("*.py"))
    return {str(path.relative_to(ROOT)): lines(path) for path in paths}


def nonlocals(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sum(isinstance(node, ast.Nonlocal) for node in ast.walk(tree))


def first_line(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def write():
    """Update the ideas of the table from the docstrings; a row of several files keeps its words."""
    path = ROOT / "docs" / "architecture.md"

    def row(found):
        names = re.findall(r"`([^`]+)`", found["files"])
        single = len(names) == 1 and "*" not in names[0]
        return f"| {found['files']} | {first_line(ROOT / names[0]) if single else found['idea']} |"

    path.write_text(ROW.sub(row, path.read_text(encoding="utf-8")), encoding="utf-8")


def main():
    if sys.argv[1:] == ["--write"]:
        return write()
    sizes = {module: lines(path) for module, path in MODULES.items()}
    for module, count in sizes.items():
        if count > MOST_LINES_OF_A_FILE:
            print(f"{module}: {count} lines")
    for module, path in MODULES.items():
        for name, count in functions(path):
            if count > MOST_LINES_OF_A_FUNCTION:
                print(f"{module}.{name}: {count} lines")
        if nonlocals(path):
            print(f"{module}: nonlocal")
        for name in upward(imports_of(module), module):
            print(f"{module} imports {name}, which is not below it")
    tests = sizes_of_tests()
    for name, count in tests.items():
        if count > MOST_LINES_OF_A_FILE:
            print(f"{name}: {count} lines (a test file, which may be long)")
    source = sum(sizes.values())
    print(f"source: {len(sizes)} files, {source} lines, median {statistics.median(sizes.values()):g}")
    print(
        f"tests: {len(tests)} files, {sum(tests.values())} lines, "
        f"{sum(tests.values()) / source:.2f} per source line (at least {LEAST_TEST_LINES})"
    )


if __name__ == "__main__":
    main()
