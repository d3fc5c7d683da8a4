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

from workbench.compress.graph.capture import LINEAR, WEIGHTED, aten
from workbench.compress.layer_selection import display_name, holds_matrix
from workbench.compress.variant import LayerReport

_aten, _CAT = torch.ops.aten, torch.ops.aten.cat.default
_RELUS = aten("relu.default", "relu_.default", "hardtanh.default", "hardtanh_.default")
_ADDS = aten("add.Tensor", "add_.Tensor")
_POOLS = aten("avg_pool2d.default", "adaptive_avg_pool2d.default")
_PADS = aten("pad.default", "constant_pad_nd.default")
_MOVES = _PADS | aten(
    *("view.default", "reshape.default", "flatten.using_ints", "squeeze.dim", "squeeze.dims", "unsqueeze.default"),
    *("permute.default", "transpose.int", "slice.Tensor", "max_pool2d.default", "upsample_nearest2d.vec"),
    "pixel_shuffle.default",
)
"""Data movement that both runtimes run on int8."""


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
        self._observe_output(node)

    def _observe_output(self, node: Node) -> None:
        """Observe the output of a node, or that of a ReLU that is its only reader: runtimes fuse both."""
        self._integers.add(node)
        users = list(node.users)
        if len(users) == 1 and users[0].target in _RELUS:
            _mark(users[0], {}, self.activation)
            self._integers.add(users[0])
        else:
            node.meta["quantization_annotation"].output_qspec = self.activation

    def _follow(self, node: Node) -> None:
        """Keep int8 through an operator if both runtimes have an int8 kernel for it."""
        inputs = _tensor_inputs(node)
        if node in self._integers or not inputs or not all(source in self._integers for source in inputs):
            return
        first = inputs[0]
        if node.target in _ADDS and len(inputs) == 2 and first is not inputs[1]:
            _mark(node, dict.fromkeys(inputs, self.activation), None)
            self._observe_output(node)
            return
        if node.target in _POOLS:
            _mark(node, {first: self.activation}, self.activation)
        elif node.target is _CAT and len(set(inputs)) == len(inputs):
            shared = _shared(first, node)
            _mark(node, {first: self.activation} | dict.fromkeys(inputs[1:], shared), shared)
        elif (node.target in _MOVES and _keeps_zero(node)) or node.target in _RELUS:
            _mark(node, {first: self.activation}, _shared(first, node))
        else:
            return
        self._integers.add(node)

    def _drop_dead_ends(self, graph: GraphModule) -> None:
        """Remove annotations of data movement and concatenations without an int8 reader.

        In pre-activation networks (DenseNet) all readers of the concatenations are in float: rounding costs accuracy,
        and OpenVINO 2026.4 crashes when it compiles long chains of them.
        """
        for node in reversed(graph.graph.nodes):
            unread = not any("quantization_annotation" in user.meta for user in node.users)
            if unread and node in self._integers and node.target in _MOVES | _POOLS | {_CAT}:
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
    joins = node.target in _ADDS or node.target is _CAT
    return joins and any(source.op == "get_attr" for source in _sources(node))


def _sources(node: Node, depth: int = 3) -> Iterator[Node]:
    """Yield the inputs of ``node``, and the sources of expanded ones."""
    for source in _tensor_inputs(node):
        yield source
        if depth and source.target in (_aten.expand.default, _aten.repeat.default):
            yield from _sources(source, depth - 1)


def _tensor_inputs(node: Node) -> list[Node]:
    if node.target is _CAT:
        return [source for source in node.args[0] if isinstance(source, Node)]  # type: ignore[union-attr]
    if node.target in _ADDS and not (len(node.args) == 2 and all(isinstance(a, Node) for a in node.args)):
        return []
    numbers = torch.SymInt | torch.SymFloat | int | float
    return [arg for arg in node.args if isinstance(arg, Node) and not isinstance(arg.meta.get("val"), numbers)]


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


def report_layers(module: torch.nn.Module, decisions: list[LayerDecision]) -> tuple[LayerReport, ...]:
    """Return a report for each layer with a weight matrix, in the model's order."""
    by_name = {decision.name: decision for decision in decisions}
    names: dict[torch.nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        names.setdefault(layer, []).append(name)
    weights = {layer: getattr(layer, "weight", None) for layer in names}  # parametrized: new per read
    owners: dict[Any, list[torch.nn.Module]] = {}
    for layer, weight in weights.items():
        owners.setdefault(weight, []).append(layer)
    reports, reported = [], set()
    for layer, own in names.items():
        weight = weights[layer]
        aliases = own if weight is None else [name for owner in owners[weight] for name in names[owner]]
        # an embedding that shares its weight: the decision is that of the layer which multiplies by it
        looked_up = isinstance(layer, torch.nn.Embedding) and len(owners[weight]) > 1
        matches = set() if looked_up else by_name.keys() & set(aliases)
        reported |= matches
        if matches:
            decision = by_name[min(matches)]
            reports.append(LayerReport(display_name(own[0]), type(layer).__name__, decision.quantized, decision.reason))
        elif holds_matrix(layer):
            reports.append(LayerReport(display_name(own[0]), type(layer).__name__, False, _why_untouched(layer)))
    functions = [decision for decision in decisions if decision.name not in reported]
    return (*reports, *(LayerReport(d.name, "function", d.quantized, d.reason) for d in functions))


def _why_untouched(layer: torch.nn.Module) -> str:
    if isinstance(layer, torch.nn.Embedding):
        return "an embedding is looked up, not multiplied: stays in float"
    if isinstance(layer, torch.nn.RNNBase):
        return "recurrent: its operator has no quantized form"
    if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
        return "a transposed convolution: ONNX Runtime has no int8 kernel for it"
    return "not called with its weight as a convolution or Linear in the captured graph"
