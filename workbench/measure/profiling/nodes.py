"""What a runtime told of the nodes that it ran, in one shape for all, and the layers that they belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.export.io import LAYER_KEY
from workbench.measure.accuracy.activation_taps import layer_points

ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_LONGEST_CHAIN = 8
TOGETHER = " + "
"""Between the names of layers that one node computes."""
_OWNER = re.compile(r"^(?P<owner>.+?)\.(weight|bias)([._].*)?$")


@dataclass(frozen=True)
class NodeTime:
    """One node of what the runtime runs: ms per call, the runtime's own names, and what it computes in."""

    node: str
    op: str
    layer: str | None
    ms: float
    precision: str | None
    provider: str
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ProfiledCalls:
    """The nodes of some calls in the order of computation, the ms of each call, and what writes their trace."""

    nodes: tuple[NodeTime, ...]
    ms: tuple[float, ...]
    write_trace: Callable[[Path], None]
    notes: tuple[str, ...] = ()


class LayerNames:
    """The layers of an ONNX file's nodes, by the names of nodes and of the tensors that they give.

    A node that multiplies by a stored weight belongs to the layer that owns it. A file of the workbench says in its
    nodes' metadata which module the others came from; roundings belong to the layer behind or before them.
    """

    def __init__(self, path: Path, owners: Mapping[str, str] | None = None) -> None:
        import onnx

        graph = onnx.load(str(path)).graph
        self._makers = {output: node for node in graph.node for output in node.output}
        self._nodes = {node.name: node for node in graph.node if node.name} | self._makers
        self._products: dict[str, str] = {}
        self._known: dict[str, str] = {}
        for point in layer_points(path, owners):
            if point.name is not None:
                self._learn_product(point.values[0][1], point.name)
        for node in graph.node:
            said = next((entry.value for entry in node.metadata_props if entry.key == LAYER_KEY), None)
            if said:
                self._learn(node, said)
        self._learn_roundings(graph)

    def of(self, names: Sequence[str], *, product: bool = False) -> str | None:
        """Return the layer of a node that a runtime made of the ones with these names (or tensors).

        Those that multiply by stored weights go before others; several of them are joined by " + ". Where none of them
        does and the runtime's node is a ``product``, it is the one before: runtimes name a fused node by its end.
        """
        found = list(dict.fromkeys(self._products[name] for name in names if name in self._products))
        if not found and product:
            found = [layer for layer in map(self._before, names) if layer][:1]
        if found:
            return TOGETHER.join(found)
        return next((self._known[name] for name in names if name in self._known), None)

    def has(self, names: Sequence[str]) -> bool:
        """Return whether one of these is a node of the file, or a tensor that one gives."""
        return any(name in self._nodes for name in names)

    def _learn(self, node: Any, layer: str) -> None:
        for name in (node.name, *node.output):
            if name:
                self._known.setdefault(name, layer)

    def _learn_product(self, tensor: str, layer: str) -> None:
        """Keep the node behind which a layer's values stand, and the product where another node adds the bias."""
        node = self._makers[tensor]
        nodes = [node]
        if node.op_type == "Add":
            nodes += [made for name in node.input if (made := self._makers.get(name)) and made.op_type == "MatMul"]
        for one in nodes:
            self._products.update(dict.fromkeys((name for name in (one.name, *one.output) if name), layer))
            self._learn(one, layer)

    def _before(self, name: str) -> str | None:
        """Return the layer whose values reach a node through others that follow it one by one."""
        node = self._nodes.get(name)
        for _ in range(_LONGEST_CHAIN):
            if node is None:
                return None
            if node.output[0] in self._products:
                return self._products[node.output[0]]
            computed = [one for one in node.input if one in self._makers]
            node = self._makers[computed[-1]] if computed else None
        return None

    def _learn_roundings(self, graph: Any) -> None:
        users: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                users.setdefault(name, []).append(node)
        # a pair of them behind a layer, then one before the next layer
        for node in [node for node in graph.node if node.op_type in ROUNDING]:
            layer = self._known.get(node.input[0])
            if layer:
                self._learn(node, layer)
        for node in [node for node in reversed(graph.node) if node.op_type in ROUNDING]:
            behind = (self._known.get(user.output[0]) for user in users.get(node.output[0], []))
            layer = next((one for one in behind if one), None)
            if layer:
                self._learn(node, layer)


def owner_of(names: Sequence[str]) -> str | None:
    """Return the module that owns one of these stored tensors, by their names.

    Examples
    --------
    >>> owner_of(["x", "block.conv.weight_nchwc"])
    'block.conv'
    """
    found = (match["owner"] for match in map(_OWNER.match, names) if match)
    return next(found, None)


def cut_median(whole: Sequence[float]) -> float:
    """Return the median of times that were cut off to whole units: a 3 stands for anything from 3 to 4.

    Nodes of a few microseconds would else be off by a tenth and more.

    Examples
    --------
    >>> cut_median([3, 3, 3, 3])
    3.5
    """
    values = np.sort(np.asarray(whole, dtype=float))
    middle = float(np.median(values))
    at = np.floor(middle)
    below, same = int((values < at).sum()), int((values == at).sum())
    if not same:
        return middle + 0.5
    return float(at + min(max((len(values) / 2 - below) / same, 0.0), 1.0))
