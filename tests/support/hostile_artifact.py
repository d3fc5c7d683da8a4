"""Paths into JSON trees, values put at them, and all readers of an artifact in one call."""

from __future__ import annotations

import re
from copy import deepcopy

import workbench as wb
from workbench.artifact import open_artifact
from workbench.core.errors import WorkbenchError
from workbench.study.bundle.bundle import page, program
from workbench.study.results.schema import new_row

ROW = new_row(
    task="small",
    recipe="x",
    backend="onnxruntime",
    batch_size=1,
    threads=1,
    machine="m",
    fingerprint="f",
    baseline=True,
)


def places(tree, path=()):
    """Yield the path of every value of a JSON tree, and of every key."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*path, ("key", key))
            yield from places(value, (*path, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from places(value, (*path, index))
    yield path


def put(tree, path, value):
    """Return a copy of a tree with another value, or another key, at a path."""
    if not path:
        return value
    tree, last = deepcopy(tree), path[-1]
    at = tree
    for part in path[:-1]:
        at = at[part]
    if isinstance(last, tuple):
        at[value if isinstance(value, str) else str(value)] = at.pop(last[1])
    else:
        at[last] = value
    return tree


def opened(folder, task=None):
    """Read all that is read of an artifact, and write what is written about it; return the program, None if refused."""
    try:
        artifact = open_artifact(folder)
        code = program(artifact.io)
        text = page(ROW, artifact, reason="r", runs_on="onnxruntime", remade=False)
        if task is not None:
            wb.load_variant(folder, task)
    except WorkbenchError as error:
        assert len(str(error)) < 2000
        return None
    shown = re.sub(r"(`+)[^`]+\1", "", text)  # what stands between backticks is shown as it is
    assert "<script>" not in shown and "](javascript" not in shown.replace("\\](javascript", "")
    return code
