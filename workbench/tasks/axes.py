"""Dimensions of the inputs that may have any size beside the batch: a sequence's length, an image's resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.core.checks import given
from workbench.core.errors import TaskError
from workbench.tasks.trees import Tree, leaves, tree_map

OpenDims = Sequence[Mapping[int, str]]
"""For each input, flat and in order, its open dimensions with their names; the batch, dimension 0, is none of them."""


def checked_dynamic(dynamic: Any) -> dict[str, dict[int, str]]:
    """Return ``Task(dynamic=...)`` as plain dicts.

    Raises
    ------
    TaskError
        If it is not of the form ``{"tokens": {1: "sequence"}}``.
    """
    if dynamic is None:
        return {}
    whole = isinstance(dynamic, Mapping) and all(
        isinstance(name, str) and isinstance(dims, Mapping) and dims for name, dims in dynamic.items()
    )
    if not whole:
        raise TaskError(_form(dynamic))
    for dims in dynamic.values():
        for dim, axis in dims.items():
            number = isinstance(dim, int) and not isinstance(dim, bool) and dim >= 1
            if not number or not isinstance(axis, str) or not axis.isidentifier() or axis == "batch":
                raise TaskError(_form(dynamic))
    return {name: dict(dims) for name, dims in dynamic.items()}


def _form(dynamic: Any) -> str:
    return (
        "Task dynamic names the dimensions of the inputs that may have any size, beside the batch, which always may: "
        f"{{'tokens': {{1: 'sequence'}}}} (dimension 0 is the batch); got {given(dynamic)}."
    )


def open_dims(dynamic: Mapping[str, Mapping[int, str]], names: Sequence[str], examples: Tree) -> list[dict[int, str]]:
    """Return the open dimensions for each input of a task.

    Raises
    ------
    TaskError
        If there is no such input or dimension, two of one name differ in size, or a size is 1, which stays fixed.
    """
    unknown = [name for name in dynamic if name not in names]
    if unknown:
        raise TaskError(f"Task dynamic: there is no input {unknown[0]!r}. The inputs are {', '.join(names)}.")
    found = [dict(dynamic.get(name, {})) for name in names]
    sizes: dict[str, int] = {}
    for name, leaf, dims in zip(names, leaves(examples), found, strict=True):
        for dim, axis in dims.items():
            if dim >= leaf.ndim:
                raise TaskError(f"Task dynamic: {name} has shape {list(leaf.shape)}, and so no dimension {dim}.")
            if sizes.setdefault(axis, leaf.shape[dim]) != leaf.shape[dim]:
                raise TaskError(
                    f"Task dynamic: {axis!r} is {sizes[axis]} in one input and {leaf.shape[dim]} in {name}. Dimensions "
                    "of one name have one size; give them two names."
                )
            if leaf.shape[dim] < 2:
                raise TaskError(f"Task dynamic: {axis!r} is 1 in the example inputs, and has to be at least 2 there.")
    return found


def plain(dynamic: Mapping[str, Mapping[int, str]]) -> dict[str, dict[str, str]]:
    """Return a JSON-ready form."""
    return {name: {str(dim): axis for dim, axis in dims.items()} for name, dims in dynamic.items()}


def axis_sizes(inputs: Tree, dims: OpenDims) -> dict[str, int]:
    """Return the size of each open dimension in ``inputs``, by name."""
    pairs = zip(leaves(inputs), dims, strict=True)
    return {axis: int(leaf.shape[dim]) for leaf, known in pairs for dim, axis in known.items()}


def other_sizes(inputs: Tree, dims: OpenDims) -> dict[str, int]:
    """Return other sizes than those of ``inputs``, to try a model with: half, which keeps divisors, or one less."""
    sizes = axis_sizes(inputs, dims)
    return {axis: size // 2 if size % 2 == 0 and size > 2 else max(size - 1, 1) for axis, size in sizes.items()}


def resized(inputs: Tree, dims: OpenDims, sizes: Mapping[str, int]) -> Tree:
    """Return ``inputs`` with the open dimensions cut, or repeated from the start, to ``sizes``.

    Examples
    --------
    >>> resized(np.array([[1, 2, 3]]), [{1: "sequence"}], {"sequence": 5})
    array([[1, 2, 3, 1, 2]])
    """
    left = iter(dims)

    def fit(leaf: Any) -> Any:
        for dim, axis in next(left, {}).items():
            if axis in sizes:
                leaf = _taken(leaf, np.arange(sizes[axis]) % leaf.shape[dim], dim)
        return leaf

    return tree_map(fit, inputs)


def _taken(leaf: Any, index: np.ndarray[Any, Any], dim: int) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.take(index, axis=dim)
    import torch

    return leaf.index_select(dim, torch.from_numpy(index))
