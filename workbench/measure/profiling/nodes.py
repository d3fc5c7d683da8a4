"""Node times of any runtime in one schema, and the layers of ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.export.io import LAYER_KEY
from workbench.measure.accuracy.activation_taps import layer_points, links

ROUNDING = ("QuantizeLinear", "DequantizeLinear")
WARM_CALLS = 3
_LONGEST_CHAIN = 8
TOGETHER = " + "
"""Separator of the layer names of one fused node."""


@dataclass(frozen=True)
class NodeTime:
    """One executed node: ms per call, the runtime's own names, and the compute precision."""

    node: str
    op: str
    layer: str | None
    ms: float
    precision: str | None
    provider: str
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ProfiledCalls:
    """The nodes of profiled calls in order of computation, the ms of each call, and a writer of their trace."""

    nodes: tuple[NodeTime, ...]
    ms: tuple[float, ...]
    write_trace: Callable[[Path], None]
    notes: tuple[str, ...] = ()


class LayerNames:
    """Layers of the nodes of an ONNX file, by the names of nodes and of their outputs.

    A node that multiplies by a stored weight belongs to the layer that owns it. Metadata of the workbench's files map
    the other nodes to modules; quantizers belong to the adjacent layer.
    """

    def __init__(self, path: Path, owners: Mapping[str, str] | None = None) -> None:
        import onnx

        graph = onnx.load(str(path)).graph
        self._makers, users = links(graph)
        self._nodes = {node.name: node for node in graph.node if node.name} | self._makers
        self._products: dict[str, str] = {}
        self._layers: dict[str, str] = {}
        for point in layer_points(path, owners):
            if point.name is not None:
                self._add_product(point.values[0][1], point.name)
        for node in graph.node:
            if layer := next((entry.value for entry in node.metadata_props if entry.key == LAYER_KEY), None):
                self._add(node, layer)
        self._add_quantizers(graph, users)

    def of(self, names: Sequence[str], *, product: bool = False) -> str | None:
        """Return the layer of a runtime's node that fuses the nodes with these names (or output tensors).

        Layers with stored weights come first; several are joined by " + ". If there is none and the runtime's node is a
        ``product``, it is the preceding one, because runtimes name a fused node by its end.
        """
        layers = list(dict.fromkeys(self._products[name] for name in names if name in self._products))
        if not layers and product:
            layers = [layer for layer in map(self._preceding, names) if layer][:1]
        if layers:
            return TOGETHER.join(layers)
        return next((self._layers[name] for name in names if name in self._layers), None)

    def has(self, names: Sequence[str]) -> bool:
        """Return whether one of the names is a node of the file or its output."""
        return any(name in self._nodes for name in names)

    def _add(self, node: Any, layer: str) -> None:
        for name in (node.name, *node.output):
            if name:
                self._layers.setdefault(name, layer)

    def _add_product(self, tensor: str, layer: str) -> None:
        """Add the node that computes a layer's output, and the product if another node adds the bias."""
        node = self._makers[tensor]
        nodes = [node]
        if node.op_type == "Add":
            nodes += [made for name in node.input if (made := self._makers.get(name)) and made.op_type == "MatMul"]
        for one in nodes:
            self._products.update(dict.fromkeys((name for name in (one.name, *one.output) if name), layer))
            self._add(one, layer)

    def _preceding(self, name: str) -> str | None:
        """Return the layer whose output reaches a node through a chain of nodes."""
        node = self._nodes.get(name)
        for _ in range(_LONGEST_CHAIN):
            if node is None:
                return None
            if node.output[0] in self._products:
                return self._products[node.output[0]]
            computed = [one for one in node.input if one in self._makers]
            node = self._makers[computed[-1]] if computed else None
        return None

    def _add_quantizers(self, graph: Any, users: Mapping[str, Sequence[Any]]) -> None:
        quantizers = [node for node in graph.node if node.op_type in ROUNDING]
        # a pair after a layer, then one before the next layer
        for node in quantizers:
            if layer := self._layers.get(node.input[0]):
                self._add(node, layer)
        for node in reversed(quantizers):
            following = (self._layers.get(user.output[0]) for user in users.get(node.output[0], []))
            if layer := next(filter(None, following), None):
                self._add(node, layer)


def cut_median(whole: Sequence[float]) -> float:
    """Return the median of truncated times, of which 3 stands for 3 to 4.

    Without it, nodes of a few microseconds would be off by more than 10 %.

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
