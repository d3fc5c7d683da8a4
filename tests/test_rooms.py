"""Hold the shape of the package: no import circle, no import by string, small modules and folders."""

from __future__ import annotations

import ast

import pytest
from import_graph import by_string, circles, imports, is_type_checking, sources, trees
from paths import ROOT

LINES, FILES = 320, 16

CIRCLES: list[set[str]] = []
"""Groups of modules that still import each other, also by imports inside functions; they may only shrink."""

LONG: dict[str, int] = {}
"""Modules that are still above the limit, with the lines they may have."""

FULL: dict[str, int] = {}
"""Folders that are still above the limit, with the files they may have."""

BY_STRING: set[str] = set()
"""Modules that still import modules of this package by a string, or name those of another room."""


@pytest.fixture(scope="module")
def graph():
    """Return which modules each module imports, also inside functions."""
    return imports()


def test_modules_do_not_import_each_other_in_a_circle(graph):
    new = [circle for circle in circles(graph) if not any(circle <= left for left in CIRCLES)]
    assert not new, "\n".join(" <-> ".join(sorted(circle)) for circle in new)


def test_a_circle_through_a_function_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [frozenset({"b", "c"})]


def test_modules_are_small():
    long = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in sources().items()}
    assert not {name: lines for name, lines in long.items() if lines > LONG.get(name, LINES)}


def test_modules_are_imported_by_statements():
    new = {name: by_string(name) for name in sources() if name not in BY_STRING}
    assert not {name: strings for name, strings in new.items() if strings}


def test_no_class_declares_methods_of_another_for_type_checkers():
    declared = [
        (name, method.name)
        for name, tree in trees().items()
        for found in ast.walk(tree)
        if isinstance(found, ast.ClassDef)
        for block in found.body
        if is_type_checking(block)
        for method in ast.walk(block)
        if isinstance(method, ast.FunctionDef)
    ]
    assert not declared


def test_folders_are_small():
    folders = {file.parent for file in sources().values()}
    counts = {folder.relative_to(ROOT).as_posix(): len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: count for folder, count in counts.items() if count > FULL.get(folder, FILES)}
