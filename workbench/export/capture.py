"""Capture a module as a graph with torch.export: with a dynamic batch where the module allows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from workbench.core.errors import ExportError
from workbench.export.io import Tree
from workbench.export.program import export_program, reason_of
from workbench.export.quiet import quiet_export
from workbench.tasks.axes import OpenDims
from workbench.tasks.module import copied_module, plain_outputs
from workbench.tasks.trees import batch_size, named_leaves, tree_map


@dataclasses.dataclass(frozen=True)
class Captured:
    """An exported program; ``batch`` is None where the batch is dynamic, ``notes`` say why it is not."""

    program: torch.export.ExportedProgram
    batch: int | None
    notes: tuple[str, ...] = ()


def resize_batch(inputs: Tree, size: int) -> Tree:
    """Return ``size`` samples: the first ones, repeated from the start where there are fewer."""
    index = torch.arange(size) % batch_size(inputs)
    return tree_map(lambda leaf: leaf[index], inputs)


def evaluating(module: nn.Module) -> nn.Module:
    """Return the module in eval mode: itself, or a copy where some part of it is training."""
    if isinstance(module, fx.GraphModule) or not any(m.training for m in module.modules()):
        return module
    return copied_module(module).eval()


def is_quantized(captured: Captured) -> bool:
    """Return whether the graph rounds to integers somewhere."""
    return any("quantize_per" in str(node.target) for node in captured.program.graph.nodes)


def capture_dynamic(module: nn.Module, inputs: Tree, *, dims: OpenDims = ()) -> Captured:
    """Capture with a dynamic leading batch, and with ``dims``, the open dimensions of each input, dynamic too.

    Raises
    ------
    ExportError
        If the module cannot be captured so, with the reason in one sentence.
    """
    # Size 1 would be taken as a constant, and each input needs its own memory to get its own dynamic batch.
    example = tree_map(lambda leaf: leaf.clone(), resize_batch(inputs, max(2, batch_size(inputs))))
    args, kwargs = _arguments(example)
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    batch = torch.export.Dim("batch")
    # A named one would have to be right for every size from 0 on, which a convolution's output is not.
    for position, (_, leaf) in enumerate(named_leaves(example)):
        shapes[leaf] = {0: batch, **dict.fromkeys(dims[position] if dims else (), torch.export.Dim.DYNAMIC)}
    return Captured(_export(module, args, kwargs, shapes), None)


def capture_fixed(module: nn.Module, inputs: Tree, batch: int, *, reason: str) -> Captured:
    """Capture for one batch size only; ``reason`` goes into the notes. Raises ExportError as above."""
    args, kwargs = _arguments(resize_batch(inputs, batch))
    note = f"The batch size is fixed at {batch}: {reason}"
    return Captured(_export(module, args, kwargs, None), batch, (note,))


def _arguments(inputs: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, tuple | list) else ((inputs,), {})


def _export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> Any:
    try:
        with torch.no_grad(), quiet_export(), plain_outputs(module):
            return export_program(module, args, kwargs, shapes)
    except Exception as error:
        raise ExportError(f"The module cannot be exported: {reason_of(error)}") from error
