"""Capture a module as a graph with a dynamic batch dimension, batch norm folded."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from workbench.compress.program import export_program, reason_of
from workbench.compress.quantize.annotate import WEIGHTED
from workbench.compress.quantize.quiet import quiet_torchao
from workbench.core.errors import ExportError
from workbench.tasks.axes import OpenDims
from workbench.tasks.trees import Tree, call_model, leaves, tree_map

_aten = torch.ops.aten
_BATCH_NORM = _aten.batch_norm.default
_FOLDS = WEIGHTED | {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}
_TOLERANCE = 1e-3


def capture(module: nn.Module, example: Tree, *, dims: OpenDims = ()) -> GraphModule:
    """Return the graph of ``module`` in eval mode; any batch size fits, the inputs stand as in ``example``.

    So does any size of ``dims``, the open dimensions of each input, where the module allows it.

    Raises
    ------
    ExportError
        If torch.export cannot follow the module, or only for one fixed batch size, or the graph gives other outputs.
    """
    if any(dims):
        with contextlib.suppress(ExportError):  # the export says what is fixed then
            return _captured(module, example, dims)
    return _captured(module, example, ())


def _captured(module: nn.Module, example: Tree, dims: OpenDims) -> GraphModule:
    args, kwargs, shapes = _call(example, dims)
    try:
        program = export_program(module.eval(), args, kwargs, shapes)
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} cannot be captured as a graph with a dynamic batch, which Quantize needs: "
            + reason_of(error, otherwise="leave Quantize out of the recipe")
        ) from error
    # The guards repeat what the task checked already, and cost time on every call.
    graph = program.module(check_guards=False)
    _drop_assertions(graph)
    _spell_out(graph, unfoldable=True)
    _fold_batch_norm(graph)
    _spell_out(graph, unfoldable=False)
    _check_same(graph, module, example)
    return graph


def _drop_assertions(graph: GraphModule) -> None:
    """Take out checks of dtypes, which a ``.to(...)`` in forward leaves behind: training may run in bfloat16."""
    for node in list(graph.graph.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
    graph.recompile()


def _call(example: Tree, dims: OpenDims) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    # One name for all: inputs of a model with several must have the same number of samples.
    batch = torch.export.Dim("batch")
    left = iter(dims)
    dynamic = tree_map(lambda _: {0: batch, **dict.fromkeys(next(left, {}), torch.export.Dim.DYNAMIC)}, example)
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


def _spell_out(graph: GraphModule, *, unfoldable: bool) -> None:
    """Write batch norms as a product and a sum: all of them, or those that torchao would fold where it must not.

    torchao folds a norm into the convolution or Linear before it without asking who else takes that output or that
    weight; in networks that normalise before they convolve, the skip connection does. A norm that is left over makes
    it search for training patterns for half a minute, and finds none.
    """
    for norm in list(graph.graph.nodes):
        if norm.target is not _BATCH_NORM or norm.args[3] is None or norm.args[5]:
            continue
        source = norm.args[0]
        shared = source.target in _FOLDS and (len(source.users) > 1 or len(source.args[1].users) > 1)
        if unfoldable and not shared:
            continue
        scale, shift = _affine(graph, norm)
        with graph.graph.inserting_before(norm):
            for target, value, word in ((_aten.mul.Tensor, scale, "scale"), (_aten.add.Tensor, shift, "shift")):
                name = f"{norm.name}_{word}"
                graph.register_parameter(name, torch.nn.Parameter(value))
                source = graph.graph.call_function(target, (source, graph.graph.get_attr(name)))
                source.meta = dict(norm.meta)
        norm.replace_all_uses_with(source)
        graph.graph.erase_node(norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _affine(graph: GraphModule, norm: Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm multiplies by and adds, shaped to broadcast over its input ``[n, c, ...]``."""
    read: Any = [None if node is None else attrgetter(str(node.target))(graph).detach() for node in norm.args[1:5]]  # type: ignore[union-attr]
    weight, bias, mean, variance = read
    scale: torch.Tensor = (variance + norm.args[7]).rsqrt() * (1.0 if weight is None else weight)
    shift: torch.Tensor = (0.0 if bias is None else bias) - mean * scale
    shape = [-1] + [1] * (norm.meta["val"].ndim - 2)
    return scale.reshape(shape), shift.reshape(shape)


def _check_same(graph: GraphModule, module: nn.Module, example: Tree) -> None:
    """Refuse a graph that computes something else than the module."""
    with torch.inference_mode():
        pairs = zip(leaves(call_model(graph, example)), leaves(call_model(module, example)), strict=True)
        for mine, theirs in pairs:
            apart = float((mine.double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
            if not apart <= _TOLERANCE * max(1.0, float(theirs.double().abs().max()) if theirs.numel() else 0.0):
                raise ExportError(
                    f"The captured graph of {type(module).__name__} computes something else than the module: the "
                    f"outputs are up to {apart:.3g} apart. A forward with random values, or one that changes the "
                    "module's own state, cannot be quantized; leave Quantize out of the recipe."
                )
