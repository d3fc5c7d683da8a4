"""The graph of imports in `workbench/`, also of imports inside functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from paths import ROOT

PACKAGE = "workbench"


@cache
def sources() -> dict[str, Path]:
    """Return the file of each module by dotted name."""
    files = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


@cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each module."""
    return {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in sources().items()}


def imports() -> dict[str, set[str]]:
    """Return the modules that each module imports when it runs; imports for type checkers do not count.

    A name that is taken from a package face leads to the module that the face's stub names for it. Strings that name a
    module do not count, see :func:`by_string`.
    """
    files = sources()
    faces = {name: _stub(name, file) for name, file in files.items() if file.name == "__init__.py"}
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, tree in trees().items():
        for node in run_time_nodes(tree):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names if alias.name in files)
            elif isinstance(node, ast.ImportFrom) and node.module in files:
                face = faces.get(node.module, {})
                for alias in node.names:
                    target = f"{node.module}.{alias.name}"
                    graph[name].add(target if target in files else face.get(alias.name, node.module))
        graph[name].discard(name)
    return graph


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below a node, except for those below `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        yield child
        yield from run_time_nodes(child)


def is_type_checking(node: ast.AST) -> bool:
    """Return True for `if TYPE_CHECKING` without an else."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not node.orelse


def circles(graph: dict[str, set[str]]) -> list[frozenset[str]]:
    """Return the strongly connected components of more than one module (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[frozenset[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                components.append(frozenset(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in index:
            visit(name)
    return components


def by_string(name: str) -> list[str]:
    """Return the strings by which a module imports one of this package, or names one of another room.

    A room may name its own modules in a table of strings, from which one is loaded by what the caller chooses.
    """
    files = sources()
    strings = []
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Call) and re.search(r"\b(import_module|__import__)$", ast.unparse(node.func)):
            if re.match(rf"f?['\"]{PACKAGE}\.", ast.unparse(node.args[0])):
                strings.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            target = node.value.partition(":")[0]
            if target in files and target.count(".") and target.split(".")[1] != name.split(".")[1]:
                strings.append(node.value)
    return strings


def _stub(name: str, file: Path) -> dict[str, str]:
    """Return the module that defines each name of a package face."""
    stub = file.with_suffix(".pyi")
    if not stub.exists():
        return {}
    nodes = ast.parse(stub.read_text(encoding="utf-8")).body
    return {
        alias.asname or alias.name: f"{name}.{node.module}" if node.module else name
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
