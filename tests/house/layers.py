"""The layers of the house, read from the table in docs/architecture.md, and what the code keeps of them.

python -m tests.house.layers            # sizes of functions and files, upward imports
python -m tests.house.layers --write    # the column of ideas anew, from the first lines of docstrings
"""

import ast
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = "pddm_jax", "experiments"
MOST_LINES_OF_A_FUNCTION, MOST_LINES_OF_A_FILE, MEDIAN = 60, 300, 120
ROW = re.compile(r"^\| (?P<files>`[^|]+?) +\| (?P<idea>.*?) *\|$", re.MULTILINE)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for top in PACKAGES for path in sorted((ROOT / top).rglob("*.py"))}


def table():
    """Rows of (modules, files as written, idea), from the top of the house to its ground."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = []
    for row in ROW.finditer(text):
        patterns = re.findall(r"`([^`]+)`", row["files"])
        paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        rows.append(([module_name(path) for path in paths], row["files"], row["idea"]))
    return rows


def layers():
    """The layer of each module; 0 is the ground."""
    return {module: n for n, (modules, *_) in enumerate(reversed(table())) for module in modules}


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
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


def imports_of(module):
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def upward(found, module):
    """Those of the imports that do not go downward."""
    level = layers()
    return [name for name in found if name != module and level[name] >= level[module]]


def functions(path):
    """(name, lines) of each function of a file, without its docstring's lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def nonlocals(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sum(isinstance(node, ast.Nonlocal) for node in ast.walk(tree))


def first_line(path):
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return told.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def write():
    """The ideas of the table from the docstrings of its files; of a row of several, the row's own words."""
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
    tests = sum(map(lines, (ROOT / "tests").rglob("*.py")))
    print(f"{len(sizes)} files, {sum(sizes.values())} lines, median {statistics.median(sizes.values()):g}")
    print(f"tests: {tests} lines, {tests / sum(sizes.values()):.2f} of these")


if __name__ == "__main__":
    main()
