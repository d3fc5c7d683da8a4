"""Capture a module as a graph with a dynamic batch dimension, batch norm folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from workbench.compress.quantize.quiet import quiet_torchao
from workbench.core.errors import ExportError
from workbench.tasks.trees import Tree, tree_map


def capture(module: nn.Module, example: Tree) -> GraphModule:
    """Return the graph of ``module`` in eval mode; any batch size fits, the inputs stand as in ``example``.

    Raises
    ------
    ExportError
        If torch.export cannot follow the module, or only for one fixed batch size.
    """
    args, kwargs, shapes = _call(example)
    try:
        program = torch.export.export(module.eval(), args, kwargs, dynamic_shapes=shapes)
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be captured as a graph with a dynamic batch, which Quantize needs "
            f"({type(error).__name__}: {_first_line(error)}). Avoid Python branches on tensor values and fixed batch "
            "sizes in forward, or leave Quantize out of the recipe."
        ) from error
    # The guards repeat what the task checked already, and cost time on every call.
    graph = program.module(check_guards=False)
    _fold_batch_norm(graph)
    return graph


def _call(example: Tree) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    dynamic = tree_map(lambda _: {0: torch.export.Dim.DYNAMIC}, example)
    if isinstance(example, Mapping):
        return (), dict(example), dynamic
    if isinstance(example, tuple | list):
        return tuple(example), {}, tuple(dynamic)
    return (example,), {}, (dynamic,)


def _fold_batch_norm(graph: GraphModule) -> None:
    with quiet_torchao():
        from torchao.quantization.pt2e.utils import _fuse_conv_bn_, _fuse_linear_bn_

        _fuse_conv_bn_(graph)
        _fuse_linear_bn_(graph)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:160]
