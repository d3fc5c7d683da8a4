"""Empirical bias correction: subtract the mean output error of rounding from each layer's bias.

Nagel et al. 2019 (arXiv 1906.04721), section 4.2: means over calibration samples, layer after layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.interpreter import readers, replace_stored, run_graph
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.tasks.trees import Tree

_CHANNELS_LAST = torch.ops.aten.linear.default


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
        return value + _shaped(node, shift, value)

    run_graph(plain, inputs, record)
    run_graph(converted, inputs, correct)
    converted.recompile()
    return remarks


def _mean(node: Node, value: torch.Tensor) -> torch.Tensor:
    axis = value.ndim - 1 if node.target is _CHANNELS_LAST else 1
    return value.mean([i for i in range(value.ndim) if i != axis])


def _shaped(node: Node, shift: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return shift if node.target is _CHANNELS_LAST else shift.reshape(-1, *[1] * (value.ndim - 2))


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
