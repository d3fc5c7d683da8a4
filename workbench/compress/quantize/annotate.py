"""Annotate a graph for quantization so that ONNX Runtime and OpenVINO fuse it into int8 kernels.

Both runtimes match dequantize -> operator -> quantize. Convolutions return int8, and additions, concatenations, pooling
and data movement after them stay in int8. A Linear takes int8 and returns float, because transformers normalize and
add in float. Softmax, norms and attention products stay in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.operators import LINEAR, WEIGHTED

_aten = torch.ops.aten
_RELUS = frozenset({_aten.relu.default, _aten.relu_.default, _aten.hardtanh.default, _aten.hardtanh_.default})
_ADDS = frozenset({_aten.add.Tensor, _aten.add_.Tensor})
_POOLS = frozenset({_aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default})
_MOVES = frozenset(
    {
        _aten.view.default,
        _aten.reshape.default,
        _aten.flatten.using_ints,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
        _aten.slice.Tensor,
        _aten.pad.default,
        _aten.constant_pad_nd.default,
        _aten.max_pool2d.default,
        _aten.upsample_nearest2d.vec,
        _aten.pixel_shuffle.default,
    }
)
_PADS = frozenset({_aten.pad.default, _aten.constant_pad_nd.default})


@dataclass(frozen=True)
class LayerDecision:
    """A convolution or Linear of the graph, by module name: quantized, or the reason why not."""

    name: str
    quantized: bool
    reason: str


def weighted_nodes(graph: GraphModule) -> Iterator[tuple[Node, str | None]]:
    """Yield each convolution and Linear with the module that owns its weight, None if the weight is computed."""
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in WEIGHTED:
            weight = node.args[1]
            owner = str(weight.target).rpartition(".")[0] if weight.op == "get_attr" else None
            yield node, owner


class Annotator:
    """Write the quantization annotations of one graph.

    ``activation`` and ``weight`` are QuantizationSpecs (no ``activation``: weight-only), ``excluded`` maps modules that
    stay in float to the reason. ``flow`` keeps int8 between operators. ``describe`` returns the report of a quantized
    layer from its weight's shape.
    """

    def __init__(
        self,
        activation: Any,
        weight: Any,
        excluded: Mapping[str, str],
        *,
        flow: bool = True,
        describe: Callable[[torch.Size], str] = lambda _: "int8 weights and inputs",
    ) -> None:
        self.activation, self.weight, self.excluded = activation, weight, excluded
        self.flow, self._describe = flow and activation is not None, describe
        self.decisions: list[LayerDecision] = []
        self._chosen: set[Node] = set()
        self._integers: set[Node] = set()

    def annotate(self, graph: GraphModule) -> None:
        """Annotate in the order of computation."""
        self.decisions += [self._decide(node, owner) for node, owner in weighted_nodes(graph)]
        for node in graph.graph.nodes:
            if node in self._chosen:
                self._weighted(node)
            elif self.flow and node.op == "call_function":
                self._follow(node)
        if self.flow:
            self._drop_dead_ends(graph)

    def _decide(self, node: Node, owner: str | None) -> LayerDecision:
        if owner is None:
            return LayerDecision(str(node), False, "its weight is computed in forward")
        if owner in self.excluded:
            return LayerDecision(owner, False, self.excluded[owner])
        self._chosen.add(node)
        return LayerDecision(owner, True, self._describe(node.args[1].meta["val"].shape))  # type: ignore[union-attr]

    def _weighted(self, node: Node) -> None:
        if self.activation is None:
            _mark(node, {node.args[1]: self.weight}, None)
            return
        _mark(node, {node.args[0]: self.activation, node.args[1]: self.weight}, None)
        if not self.flow or node.target is LINEAR or _ends_in_float(node):
            return
        self._integers.add(node)
        if not self._fused_relu(node):
            _set_output(node, self.activation)

    def _fused_relu(self, node: Node) -> bool:
        """Observe the output of a ReLU that is the only reader: runtimes fuse both operators."""
        users = list(node.users)
        if len(users) != 1 or users[0].target not in _RELUS:
            return False
        _mark(users[0], {}, self.activation)
        self._integers.add(users[0])
        return True

    def _follow(self, node: Node) -> None:
        """Keep int8 through an operator if both runtimes have an int8 kernel for it."""
        inputs = _tensor_inputs(node)
        if node in self._integers or not inputs or not all(source in self._integers for source in inputs):
            return
        first = inputs[0]
        if node.target in _ADDS and len(inputs) == 2 and first is not inputs[1]:
            _mark(node, dict.fromkeys(inputs, self.activation), None)
            self._integers.add(node)
            if not self._fused_relu(node):
                _set_output(node, self.activation)
        elif node.target in _POOLS:
            _mark(node, {first: self.activation}, self.activation)
            self._integers.add(node)
        elif node.target is _aten.cat.default and len(set(inputs)) == len(inputs):
            shared = _shared(first, node)
            _mark(node, {first: self.activation} | dict.fromkeys(inputs[1:], shared), shared)
            self._integers.add(node)
        elif (node.target in _MOVES and _keeps_zero(node)) or node.target in _RELUS:
            _mark(node, {first: self.activation}, _shared(first, node))
            self._integers.add(node)

    def _drop_dead_ends(self, graph: GraphModule) -> None:
        """Remove annotations of data movement and concatenations without an int8 reader.

        In pre-activation networks (DenseNet) all readers of the concatenations are in float: rounding costs accuracy,
        and OpenVINO 2026.4 crashes when it compiles long chains of them.
        """
        for node in reversed(graph.graph.nodes):
            if node.target not in _MOVES | _POOLS | {_aten.cat.default}:
                continue
            if node in self._integers and not any(_is_marked(user) for user in node.users):
                node.meta.pop("quantization_annotation", None)
                self._integers.discard(node)


def _ends_in_float(node: Node) -> bool:
    """Return whether all readers of a convolution need floats: an output, a norm or a sum with a parameter."""
    queue = list(node.users)
    while queue:
        user = queue.pop()
        if user.target in _MOVES:
            queue += list(user.users)
        elif not (user.op == "output" or user.target is _aten.layer_norm.default or _meets_parameter(user)):
            return False
    return True


def _meets_parameter(node: Node) -> bool:
    joins = node.target in _ADDS or node.target is _aten.cat.default
    return joins and any(source.op == "get_attr" for source in _sources(node))


def _sources(node: Node, depth: int = 3) -> Iterator[Node]:
    """Yield the inputs of ``node``, and the sources of expanded ones."""
    for source in _tensor_inputs(node):
        yield source
        if depth and source.target in (_aten.expand.default, _aten.repeat.default):
            yield from _sources(source, depth - 1)


def _tensor_inputs(node: Node) -> list[Node]:
    if node.target is _aten.cat.default:
        return [source for source in node.args[0] if isinstance(source, Node)]  # type: ignore[union-attr]
    if node.target in _ADDS and not (len(node.args) == 2 and all(isinstance(a, Node) for a in node.args)):
        return []
    return [source for source in node.args if isinstance(source, Node) and not _is_number(source)]


def _is_number(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | int | float)


def _keeps_zero(node: Node) -> bool:
    """Return whether a padding (if it is one) pads with zeros, which every range can represent."""
    if node.target not in _PADS:
        return True
    mode = node.args[2] if len(node.args) > 2 else "constant"
    value = node.args[3] if len(node.args) > 3 else None
    if node.target is _aten.constant_pad_nd.default:
        return not mode or mode == "constant"
    return mode == "constant" and not value


def _shared(source: Node, node: Node) -> Any:
    from torchao.quantization.pt2e.quantizer import SharedQuantizationSpec

    return SharedQuantizationSpec((source, node))


def _mark(node: Node, inputs: dict[Any, Any], output: Any) -> None:
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation

    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def _set_output(node: Node, spec: Any) -> None:
    node.meta["quantization_annotation"].output_qspec = spec


def _is_marked(node: Node) -> bool:
    return "quantization_annotation" in node.meta
