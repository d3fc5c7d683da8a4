"""Describe the inputs and outputs of a torch module by running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from workbench.core.errors import ExportError
from workbench.export.capture import reason_of, resize_batch
from workbench.export.io import IOSpec, TensorSpec, Tree, describe_tree, input_kind, input_leaves
from workbench.tasks.axes import OpenDims, alternative_sizes, resize
from workbench.tasks.trees import call_model


def describe_io(
    module: nn.Module, inputs: Tree, names: Sequence[str], *, batch: int | None = None, dims: OpenDims = ()
) -> IOSpec:
    """Return the inputs and outputs of a module, from a run on a small batch of ``inputs``.

    With ``dims`` the module runs at other sizes too, which shows the outputs' dimensions that follow them.

    Raises
    ------
    ExportError
        If an output is not a tensor, or has no leading batch dimension.
    """
    size = batch or 2
    with torch.no_grad():
        outputs = call_model(module, resize_batch(inputs, size))
    try:
        tree, leaves = describe_tree(outputs, torch.is_tensor)
    except TypeError as error:
        raise ExportError(f"The module's outputs cannot be exported: {error}.") from error
    for name, leaf in leaves:
        if leaf.ndim == 0 or leaf.shape[0] != size:
            raise ExportError(
                f"Every output must have the batch as its first dimension, got {name!r} of shape {list(leaf.shape)} "
                f"for a batch of {size}. Return per-sample values, or leave this output out."
            )
    shapes = _output_shapes(module, inputs, [tuple(leaf.shape[1:]) for _, leaf in leaves], dims)
    axes = [*dims] or [{} for _ in names]
    return IOSpec(
        kind=input_kind(inputs),
        inputs=tuple(_spec(n, leaf, d) for n, leaf, d in zip(names, input_leaves(inputs), axes, strict=True)),
        outputs=tuple(
            dataclasses.replace(_spec(f"{name}_out" if name in names else name, leaf, {}), shape=shape)
            for (name, leaf), shape in zip(leaves, shapes, strict=True)
        ),
        output_tree=tree,
        batch=batch,
    )


def _output_shapes(
    module: nn.Module, inputs: Tree, shapes: list[tuple[int | None, ...]], dims: OpenDims
) -> list[tuple[int | None, ...]]:
    """Return the shapes of the outputs, with None for sizes that vary with the inputs'."""
    if not any(dims):
        return shapes
    sizes = alternative_sizes(inputs, dims)
    try:
        with torch.no_grad():
            outputs = call_model(module, resize(resize_batch(inputs, 2), dims, sizes))
        others = [tuple(leaf.shape[1:]) for _, leaf in describe_tree(outputs, torch.is_tensor)[1]]
        pairs = [zip(one, other, strict=True) for one, other in zip(shapes, others, strict=True)]
        return [tuple(size if size == other else None for size, other in pair) for pair in pairs]
    except Exception as error:
        tried = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
        raise ExportError(f"The module cannot be exported: it does not run at {tried}: {reason_of(error)}") from error


def _spec(name: str, leaf: torch.Tensor, dims: Mapping[int, str]) -> TensorSpec:
    shape = tuple(None if dim in dims else size for dim, size in enumerate(leaf.shape[1:], 1))
    axes = tuple(dims.get(dim) for dim in range(1, leaf.ndim)) if dims else ()
    return TensorSpec(name, str(leaf.dtype).removeprefix("torch."), shape, axes)
