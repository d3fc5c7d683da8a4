"""Bias correction: what rounding adds to the mean of a layer's outputs goes out of its bias again.

Nagel et al. 2019, Data-free quantization through weight equalization and bias correction (arXiv 1906.04721), the
empirical form of section 4.2: the means are those over calibration samples, and a layer is corrected with all layers
before it corrected already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.interpreter import readers, replace_stored, walk
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.tasks.trees import Tree

_CHANNELS_LAST = torch.ops.aten.linear.default


def correct_biases(plain: GraphModule, converted: GraphModule, inputs: Tree) -> dict[str, str]:
    """Fold the mean output error of each quantized layer, per channel, into its bias, in place.

    Parameters
    ----------
    plain : GraphModule
        The graph before quantization.
    converted : GraphModule
        The same graph with roundings; layers without a bias get one.
    inputs : Tree
        Calibration samples [n, ...].

    Returns
    -------
    dict of str to str
        Name of a layer to what was done to it.
    """
    owners = {node.name: (node, owner) for node, owner in weighted_nodes(plain) if owner is not None}
    wanted: dict[str, torch.Tensor] = {}
    done: dict[str, str] = {}

    def note(node: Node, _: tuple[Any, ...], value: Any) -> Any:
        if node.name in owners:
            wanted[node.name] = _mean(node, value)
        return value

    def correct(node: Node, _: tuple[Any, ...], value: Any) -> Any:
        if node.name not in wanted or node.args[1].op == "get_attr":  # type: ignore[union-attr]
            return value  # a weight that is read as it is was not rounded
        source, owner = owners[node.name]
        if readers(plain, source.args[1]) > 1:  # type: ignore[arg-type]
            done[owner] = "bias left alone: several operators share this layer"
            return value
        shift = wanted[node.name] - _mean(node, value)
        _add_to_bias(converted, node, shift)
        done[owner] = f"bias corrected by up to {float(shift.abs().max()):.2g}"
        return value + _shaped(node, shift, value)

    walk(plain, inputs, note)
    walk(converted, inputs, correct)
    converted.recompile()
    return done


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
