"""Rank layers by their sensitivity to quantization, to choose those that stay in float."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from torch.fx import GraphModule, Node

from workbench.compress.graph.interpreter import run_graph, stored
from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.tasks.trees import Tree

_ROUNDING = ("quantized_decomposed", "view")


def output_sqnr(plain: GraphModule, converted: GraphModule, inputs: Tree) -> dict[str, float]:
    """Return the SQNR (dB) of the model's outputs if one layer alone is quantized, for each quantized layer.

    ``plain`` and ``converted`` are the graph before and after quantization, ``inputs`` calibration samples [n, ...].
    """
    twins = {node.name: node for node in converted.graph.nodes}
    reference = run_graph(plain, inputs, lambda node, _, value: value)
    ratios: dict[str, float] = {}
    for node, owner in weighted_nodes(plain):
        twin = twins.get(node.name)
        if owner is None or twin is None or twin.args[1].op == "get_attr":
            continue
        noise = relative_squared_error(reference, run_graph(plain, inputs, _rounding_at(node, twin, converted)))
        ratio = math.inf if noise == 0 else -10 * math.log10(noise)
        ratios[owner] = min(ratios.get(owner, math.inf), ratio)
    return ratios


def _rounding_at(chosen: Node, twin: Node, converted: GraphModule) -> Callable[[Node, tuple[Any, ...], Any], Any]:
    source = str(chosen.args[0])

    def visit(node: Node, args: tuple[Any, ...], value: Any) -> Any:
        if node is not chosen:
            return value
        values = {source: args[0]}
        rounded = [_value(converted, twin.args[place], values) for place in (0, 1)]
        return chosen.target(*rounded, *args[2:], **chosen.kwargs)  # type: ignore[operator]

    return visit


def _value(graph: GraphModule, item: Any, values: dict[str, Any]) -> Any:
    """Evaluate a rounding node from known ``values`` and stored tensors."""
    if not isinstance(item, Node):
        return [_value(graph, part, values) for part in item] if isinstance(item, list) else item
    if item.name in values:
        return values[item.name]
    tensor = stored(graph, item)
    if tensor is not None:
        return tensor
    if item.target is not operator.getitem and not any(word in str(item.target) for word in _ROUNDING):
        raise TypeError(f"{item} is not a rounding")
    values[item.name] = item.target(*(_value(graph, arg, values) for arg in item.args), **item.kwargs)  # type: ignore[operator]
    return values[item.name]


def smallest_passing(count: int, holds: Callable[[int], bool]) -> int:
    """Return the smallest ``n`` with ``holds(n)`` by bisection; ``holds`` is monotone, and ``holds(count)`` assumed."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
