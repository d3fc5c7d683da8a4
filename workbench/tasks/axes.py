"""Dynamic dimensions of the inputs besides the batch: a sequence's length, an image's resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.core.checks import given
from workbench.core.errors import TaskError
from workbench.tasks.trees import Tree, leaves, tree_map

OpenDims = Sequence[Mapping[int, str]]
"""For each input, flat and in order, its dynamic dimensions with their names, without the batch (dimension 0)."""


def check_dynamic(dynamic: Any) -> dict[str, dict[int, str]]:
    """Return ``Task(dynamic=...)`` as dicts; TaskError if it is not of the form ``{"tokens": {1: "sequence"}}``."""
    if dynamic is None:
        return {}
    if not isinstance(dynamic, Mapping) or not all(map(_is_valid, dynamic, dynamic.values())):
        raise TaskError(
            "Task dynamic must map inputs to names of dimensions of any size besides the batch (dimension 0): "
            f"{{'tokens': {{1: 'sequence'}}}}, got {given(dynamic)}."
        )
    return {name: dict(dims) for name, dims in dynamic.items()}


def _is_valid(name: Any, dims: Any) -> bool:
    return (
        isinstance(name, str)
        and isinstance(dims, Mapping)
        and bool(dims)
        and all(
            isinstance(dim, int) and not isinstance(dim, bool) and dim >= 1
            and isinstance(axis, str) and axis.isidentifier() and axis != "batch"
            for dim, axis in dims.items()
        )
    )  # fmt: skip


def open_dims(dynamic: Mapping[str, Mapping[int, str]], names: Sequence[str], examples: Tree) -> list[dict[int, str]]:
    """Return the dynamic dimensions of each input of a task.

    Raises TaskError if an input or dimension does not exist, two of one name differ in size, or a size is 1.
    """
    unknown = [name for name in dynamic if name not in names]
    if unknown:
        raise TaskError(f"Task dynamic: input {unknown[0]!r} does not exist. The inputs are {', '.join(names)}.")
    dims_of = [dict(dynamic.get(name, {})) for name in names]
    sizes: dict[str, int] = {}
    for name, leaf, dims in zip(names, leaves(examples), dims_of, strict=True):
        for dim, axis in dims.items():
            if dim >= leaf.ndim:
                raise TaskError(f"Task dynamic: {name} must have a dimension {dim}, got shape {list(leaf.shape)}.")
            if sizes.setdefault(axis, leaf.shape[dim]) != leaf.shape[dim]:
                raise TaskError(
                    f"Task dynamic: dimensions of one name must have one size, got {sizes[axis]} and {leaf.shape[dim]} "
                    f"(in {name}) for {axis!r}. Give them two names."
                )
            if leaf.shape[dim] < 2:
                raise TaskError(f"Task dynamic: {axis!r} must be at least 2 in the example inputs, got 1.")
    return dims_of


def dynamic_to_json(dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, dict[str, str]]:
    """Return a JSON-ready form."""
    return {name: {str(dim): axis for dim, axis in dims.items()} for name, dims in dynamic.items()}


def axis_sizes(inputs: Tree, dims: OpenDims) -> dict[str, int]:
    """Return the size of each dynamic dimension in ``inputs``, by name."""
    pairs = zip(leaves(inputs), dims, strict=True)
    return {axis: int(leaf.shape[dim]) for leaf, names in pairs for dim, axis in names.items()}


def alternative_sizes(inputs: Tree, dims: OpenDims) -> dict[str, int]:
    """Return sizes that differ from those of ``inputs``: half, which keeps divisors, or one less."""
    sizes = axis_sizes(inputs, dims)
    return {axis: size // 2 if size % 2 == 0 and size > 2 else max(size - 1, 1) for axis, size in sizes.items()}


def resize(inputs: Tree, dims: OpenDims, sizes: Mapping[str, int]) -> Tree:
    """Return ``inputs`` with the dynamic dimensions cut, or repeated from the start, to ``sizes``."""
    per_input = iter(dims)

    def fit(leaf: Any) -> Any:
        for dim, axis in next(per_input, {}).items():
            if axis in sizes:
                leaf = leaf[(slice(None),) * dim + (np.arange(sizes[axis]) % leaf.shape[dim],)]
        return leaf

    return tree_map(fit, inputs)
