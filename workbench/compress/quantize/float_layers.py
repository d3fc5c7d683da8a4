"""Which layers suffer most from rounding, and how many must stay in float for a quality to hold."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.interpreter import stored, walk
from workbench.compress.graph.outputs import noise_share
from workbench.compress.quantize.annotate import weighted_nodes
from workbench.tasks.trees import Tree

_ROUNDING = ("quantized_decomposed", "view")


def signal_to_noise(plain: GraphModule, converted: GraphModule, inputs: Tree) -> dict[str, float]:
    """Return for each quantized layer the SQNR in dB of the model's outputs when it alone is rounded.

    Its inputs and weight are rounded as in ``converted``, everything else computes as in ``plain``. Low values mean
    sensitive layers; infinite ones that rounding changes nothing.

    Parameters
    ----------
    plain, converted : GraphModule
        The graph before and after quantization.
    inputs : Tree
        Calibration samples [n, ...].
    """
    twins = {node.name: node for node in converted.graph.nodes}
    wanted = walk(plain, inputs, lambda node, _, value: value)
    found: dict[str, float] = {}
    for node, owner in weighted_nodes(plain):
        twin = twins.get(node.name)
        if owner is None or twin is None or twin.args[1].op == "get_attr":
            continue
        got = walk(plain, inputs, _rounding_at(node, twin, converted))
        found[owner] = min(found.get(owner, math.inf), _sqnr(wanted, got))
    return found


def _rounding_at(chosen: Node, twin: Node, converted: GraphModule) -> Callable[[Node, tuple[Any, ...], Any], Any]:
    source = str(chosen.args[0])

    def visit(node: Node, args: tuple[Any, ...], value: Any) -> Any:
        if node is not chosen:
            return value
        known = {source: args[0]}
        rounded = [_value(converted, twin.args[place], known) for place in (0, 1)]
        return chosen.target(*rounded, *args[2:], **chosen.kwargs)  # type: ignore[operator]

    return visit


def _value(graph: GraphModule, item: Any, known: dict[str, Any]) -> Any:
    """Return the value of a node of roundings, worked back to what is known and to stored tensors."""
    if not isinstance(item, Node):
        return [_value(graph, part, known) for part in item] if isinstance(item, list) else item
    if item.name in known:
        return known[item.name]
    tensor = stored(graph, item)
    if tensor is not None:
        return tensor
    if item.target is not operator.getitem and not any(word in str(item.target) for word in _ROUNDING):
        raise TypeError(f"{item} is no rounding")
    known[item.name] = item.target(*(_value(graph, arg, known) for arg in item.args), **item.kwargs)  # type: ignore[operator]
    return known[item.name]


def _sqnr(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    noise = noise_share(wanted, got)
    return math.inf if noise == 0 else -10 * math.log10(noise)


def fewest(count: int, holds: Callable[[int], bool]) -> int:
    """Return the least ``n`` up to ``count`` for which ``holds(n)``, by bisection; ``count`` itself is not tried.

    Assumes that what holds for a number holds for every larger one.
    """
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
