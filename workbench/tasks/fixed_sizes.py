"""Refuse inputs of other sizes than those that a graph was captured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from workbench.core.errors import InputError
from workbench.tasks.trees import leaves

Shape = tuple[int | None, ...]
"""Shape of one sample; None for a dimension of any size."""
M = TypeVar("M", bound=nn.Module)


def require_sizes(module: M, names: Sequence[str], shapes: Sequence[Shape]) -> M:
    """Add a hook that raises InputError for inputs of other sizes, and return the module.

    Parameters
    ----------
    names
        Names of the keyword inputs of ``forward``; empty if they are positional.
    shapes
        Shape of one sample of each input, in the order of ``names`` or of the positions.
    """
    module.register_forward_pre_hook(_Sizes(tuple(names), tuple(shapes)), with_kwargs=True, prepend=True)
    return module


class _Sizes:
    """Forward pre-hook; inactive during compilation and tracing."""

    def __init__(self, names: tuple[str, ...], shapes: tuple[Shape, ...]) -> None:
        self._names, self._shapes = names, shapes

    def __call__(self, _module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return
        given = [kwargs[name] for name in self._names if name in kwargs] if self._names else leaves(args)
        for place, (tensor, shape) in enumerate(zip(given, self._shapes, strict=False)):
            for dim, size in enumerate(shape, 1):
                if size is not None and (tensor.ndim != len(shape) + 1 or tensor.shape[dim] != size):
                    name = self._names[place] if self._names else f"input {place}"
                    expected = ["n", *("any" if size is None else size for size in shape)]
                    raise InputError(
                        f"{name} must have the shape {expected}, got {list(tensor.shape)}: the graph was captured with "
                        "these sizes. Cut or pad the inputs, or declare the dimension: Task(dynamic=...)."
                    )
