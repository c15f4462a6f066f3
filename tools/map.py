"""The map of the package, from its own imports: `python -m tools.map` prints it and fails where an import is wrong.

Packages stand in layers. A module imports from its own package and from layers below; late imports, inside of
functions, count like all others. No modules import each other in a circle.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "segcft"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("app", "report", "export"),
    ("stress",),
    ("api",),
    ("drafting",),
    ("planning",),
    ("pipeline",),
    ("evaluate",),
    ("counterfactual",),
    ("image_models", "readers"),
    ("causal",),
    ("training",),
    ("importers",),
    ("data", "simulate"),
    ("coronary",),
    ("io",),
    ("measures",),
    ("grid", "grey"),
    ("config",),
    ("utils",),
    ("errors",),
)
"""From the top down: packages, and modules beside them. The package itself is in none: it hands names on when they
are asked for, and tells its version."""

MOST_LINES, MOST_IN_FUNCTION = 400, 80
"""Of a module and of a function."""
LONG = "# Long because "
"""A comment that begins so, at the top of a module or function, says why it is longer."""


def modules(source: Path = SOURCE) -> dict[str, ast.Module]:
    """Module -> its syntax, of all files of the package; ``a.b`` is ``a/b.py`` or ``a/b/__init__.py``."""
    files = {path.relative_to(source).with_suffix("").parts: path for path in sorted(source.rglob("*.py"))}
    return {
        ".".join(part for part in parts if part != "__init__"): ast.parse(path.read_text(encoding="utf-8"))
        for parts, path in files.items()
    }


def imports(known: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, wherever in its code, but for types alone."""
    found: dict[str, set[str]] = {}
    for module, tree in known.items():
        names = {name.removeprefix("segcft").removeprefix(".") for name in _imported(tree)}
        found[module] = {_nearest(name, known) for name in names} - {module, ""}
    return found | {"": set()}


def _imported(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name.split(".")[0] == "segcft")
        elif isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "segcft":
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imported(child)


def _nearest(name: str, known: Mapping[str, ast.Module]) -> str:
    """The module that a dotted name is, or is in."""
    while name not in known:
        name = name.rpartition(".")[0]
    return name


def package(module: str) -> str:
    return module.partition(".")[0]


def faults(known: Mapping[str, ast.Module], arrows: Mapping[str, set[str]], source: Path = SOURCE) -> list[str]:
    """What is wrong with the layout, a line each."""
    level = {name: floor for floor, names in enumerate(reversed(LAYERS)) for name in names}
    wrong = [f"{module}: in no layer" for module in known if module and package(module) not in level]
    for module, targets in arrows.items():
        for target in sorted(targets):
            here, there = package(module), package(target)
            if here != there and level.get(there, 0) >= level.get(here, 0):
                wrong.append(f"{module}: imports {target}, which is not below it")
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        wrong.append(f"circle: {' -> '.join(error.args[1])}")
    for module, tree in known.items():
        wrong += _too_long(module, tree, source)
    return wrong


def _too_long(module: str, tree: ast.Module, source: Path) -> Iterator[str]:
    file = source.joinpath(*module.split(".")) if module else source
    path = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > MOST_LINES and not any(line.startswith(LONG) for line in lines):
        yield f"{module}: {len(lines)} lines, more than {MOST_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first, last = node.lineno - 1, node.end_lineno or node.lineno
            if last - first > MOST_IN_FUNCTION and not any(LONG in line for line in lines[first:last]):
                yield f"{module}.{node.name}: {last - first} lines, more than {MOST_IN_FUNCTION}"


def main() -> int:
    known = modules()
    arrows = imports(known)
    for layer in LAYERS:
        for name in layer:
            inside = [module for module in known if package(module) == name]
            if name and inside:
                below = sorted({package(t) for m in inside for t in arrows[m]} - {name, "", "errors"})
                print(f"{name:16} {len(inside):3} modules  imports {', '.join(below) or '-'}")
    wrong = faults(known, arrows)
    print("\n".join(wrong) if wrong else "No import runs upwards, and no modules import each other in a circle.")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
