"""A captured graph holds the sizes that it was captured with: inputs of others are refused, not computed wrongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from workbench.core.errors import InputError
from workbench.tasks.trees import leaves

Shape = tuple[int | None, ...]
"""Of one sample: None where any size may stand."""
M = TypeVar("M", bound=nn.Module)


def with_sizes(module: M, names: Sequence[str], shapes: Sequence[Shape]) -> M:
    """Let a module refuse inputs of other sizes, and return it.

    Parameters
    ----------
    names
        Of the inputs that ``forward`` takes by keyword; empty where it takes them by place.
    shapes
        Of one sample of each input, in the order of ``names`` or of their places.
    """
    module.register_forward_pre_hook(_Sizes(tuple(names), tuple(shapes)), with_kwargs=True, prepend=True)
    return module


class _Sizes:
    """A forward pre-hook; it rests while a compiler or tracer follows the module."""

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
                    wanted = ["n", *("any" if size is None else size for size in shape)]
                    raise InputError(
                        f"{name} must have the shape {wanted}, got {list(tensor.shape)}: the graph of this variant was "
                        "captured with these sizes. Cut or pad the inputs, or leave the size open in the task "
                        "(dynamic=...), where the model allows that."
                    )
