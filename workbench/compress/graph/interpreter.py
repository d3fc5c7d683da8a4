"""Run a captured graph node by node, to observe or change values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from workbench.tasks.trees import Tree, leaves

Visit = Callable[[Node, tuple[Any, ...], Any], Any]
"""``visit(node, arguments, value)`` returns the value for the following nodes."""


class _Walker(Interpreter):
    def __init__(self, graph: GraphModule, visit: Visit) -> None:
        super().__init__(graph)
        self._visit = visit

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op != "call_function":
            return value
        return self._visit(n, self.fetch_args_kwargs_from_env(n)[0], value)


def run_graph(graph: GraphModule, inputs: Tree, visit: Visit) -> list[torch.Tensor]:
    """Run ``graph`` on a batch with ``visit`` after every function; return the output tensors."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "placeholder"]
    if isinstance(inputs, Mapping) and set(names) == set(inputs):
        flat = [inputs[name] for name in names]
    else:
        flat = leaves(inputs)
    with torch.no_grad():
        outputs = _Walker(graph, visit).run(*flat, enable_io_processing=False)
    return [leaf for leaf in leaves(outputs) if isinstance(leaf, torch.Tensor)]


def stored(graph: GraphModule, node: Any) -> torch.Tensor | None:
    """Return the tensor that a ``get_attr`` node reads, None for another node."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    tensor: torch.Tensor = attrgetter(str(node.target))(graph)
    return tensor


def replace_stored(graph: GraphModule, node: Node, value: torch.Tensor) -> None:
    """Replace the tensor that ``node`` reads, which a module may share, by one of the graph's own."""
    old = stored(graph, node)
    if old is None:
        raise TypeError(f"{node} reads no tensor of the graph")
    path, _, name = str(node.target).rpartition(".")
    value = value.detach()
    new = torch.nn.Parameter(value, old.requires_grad) if isinstance(old, torch.nn.Parameter) else value
    setattr(graph.get_submodule(path), name, new)


def readers(graph: GraphModule, node: Node) -> int:
    """Return the number of operators that read the tensor of ``node``, through any node."""
    return sum(
        len(other.users) for other in graph.graph.nodes if other.op == "get_attr" and other.target == node.target
    )
