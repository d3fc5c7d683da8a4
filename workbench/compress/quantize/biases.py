"""Biases of quantized layers: correct them for the error of rounding, and prevent their int32 overflow."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.capture import LINEAR, WEIGHTED, readers, replace_stored, run_graph, stored
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.tasks.trees import Tree

_MAX_STEPS = 2.0**30
"""Largest bias in steps: half of int32, because bias correction may still move it."""
_SHRINK = 16.0


def correct_biases(plain: GraphModule, converted: GraphModule, inputs: Tree) -> dict[str, str]:
    """Fold the mean output error of each quantized layer, per channel, into its bias, in place.

    ``plain`` and ``converted`` are the graph before and after quantization, ``inputs`` calibration samples [n, ...].
    Layers without a bias get one. Returns a remark per layer.
    """
    owners = {node.name: (node, owner) for node, owner in weighted_nodes(plain) if owner is not None}
    means: dict[str, torch.Tensor] = {}
    remarks: dict[str, str] = {}

    def record(node: Node, _: tuple[Any, ...], value: Any) -> Any:
        if node.name in owners:
            means[node.name] = _mean(node, value)
        return value

    def correct(node: Node, _: tuple[Any, ...], value: Any) -> Any:
        if node.name not in means or node.args[1].op == "get_attr":  # type: ignore[union-attr]
            return value  # the weight is not rounded
        source, owner = owners[node.name]
        if readers(plain, source.args[1]) > 1:  # type: ignore[arg-type]
            remarks[owner] = "bias not corrected: several operators share the layer"
            return value
        shift = means[node.name] - _mean(node, value)
        _add_to_bias(converted, node, shift)
        remarks[owner] = f"bias corrected by up to {float(shift.abs().max()):.2g}"
        return value + (shift if node.target is LINEAR else shift.reshape(-1, *[1] * (value.ndim - 2)))

    run_graph(plain, inputs, record)
    run_graph(converted, inputs, correct)
    converted.recompile()
    return remarks


def _mean(node: Node, value: torch.Tensor) -> torch.Tensor:
    axis = value.ndim - 1 if node.target is LINEAR else 1
    return value.mean([i for i in range(value.ndim) if i != axis])


def _add_to_bias(graph: GraphModule, node: Node, shift: torch.Tensor) -> None:
    bias = node.args[2] if len(node.args) > 2 else None
    if isinstance(bias, Node) and bias.op == "get_attr" and readers(graph, bias) == 1:
        old = graph.get_parameter(str(bias.target))
        replace_stored(graph, bias, old + shift)
        return
    if isinstance(bias, Node):
        shift = graph.get_parameter(str(bias.target)).detach() + shift
    name = f"{node.name}_corrected_bias"
    graph.register_parameter(name, torch.nn.Parameter(shift.clone(), requires_grad=False))
    with graph.graph.inserting_before(node):
        read = graph.graph.get_attr(name)
    node.args = (*node.args[:2], read, *node.args[3:])


def prevent_bias_overflow(prepared: GraphModule) -> None:
    """Widen the range of weights if a bias would overflow int32, as for channels with weights close to zero.

    A weight's scale becomes at least ``|bias| / (2^30 * input scale)``; the weights' added error is below 2^-15 of the
    bias.
    """
    for node in prepared.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTED or len(node.args) < 3:
            continue
        bias, weight, source = stored(prepared, node.args[2]), _observer(prepared, node.args[1]), node.args[0]
        while isinstance(source, Node) and source.op == "call_function" and source.args:
            source = source.args[0]  # through data movement
        inputs = _observer(prepared, source)
        if bias is None or weight is None or inputs is None or inputs is weight:
            continue
        scale = _scale_bound(inputs)
        if scale is not None:
            _widen(weight, bias.detach().abs() / (_MAX_STEPS * scale))


def _observer(prepared: GraphModule, node: Any) -> Any:
    if not isinstance(node, Node) or node.op != "call_module":
        return None
    module = prepared.get_submodule(str(node.target))
    observer = getattr(module, "activation_post_process", module)
    return observer if hasattr(observer, "max_val") and hasattr(observer, "calculate_qparams") else None


def _scale_bound(observer: Any) -> float | None:
    """Return a lower bound of an input's scale: a range search may clip the observed range."""
    width = float((observer.max_val.clamp(min=0.0) - observer.min_val.clamp(max=0.0)).max())
    levels = float(observer.quant_max - observer.quant_min)
    return width / levels / _SHRINK if 0.0 < width < float("inf") else None


def _widen(observer: Any, least: torch.Tensor) -> None:
    """Raise the largest value of an observer until its scales are at least ``least``, [channels]."""
    scale = observer.calculate_qparams()[0]
    least = least.to(scale.dtype) if scale.numel() == least.numel() else least.max().expand_as(scale).to(scale.dtype)
    short = least > scale
    if not bool(short.any()):
        return
    levels = float(observer.quant_max - observer.quant_min)
    symmetric = observer.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric)
    low = torch.zeros_like(observer.max_val) if symmetric else observer.min_val.clamp(max=0.0)
    wide = low + least.reshape(observer.max_val.shape) * (levels / 2 if symmetric else levels)
    short = short.reshape(observer.max_val.shape)
    observer.max_val.copy_(torch.where(short, torch.maximum(observer.max_val, wide), observer.max_val))
