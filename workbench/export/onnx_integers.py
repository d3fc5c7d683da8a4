"""Lower simulated quantization to ONNX integers: 4-bit weights, and products of dynamically quantized inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from workbench.export.onnx_graph import replace_nodes

OPSET = 18
"""Native opset of the exporter, fully supported by both runtimes."""

FOUR_BIT_OPSET = 21
"""The first opset with 4-bit integers and DequantizeLinear by blocks."""

_FOUR_BITS = 15


@dataclasses.dataclass(frozen=True)
class IntegerFeatures:
    """Names of the 4-bit weights of a graph, and whether activations are quantized dynamically."""

    four_bit: frozenset[str]
    dynamic: bool

    @property
    def opset(self) -> int:
        """Required opset."""
        return FOUR_BIT_OPSET if self.four_bit else OPSET


def integer_features(program: Any) -> IntegerFeatures:
    """Return the integer features of an exported program."""
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    four_bit, dynamic = set(), False
    for node in program.graph.nodes:
        if "dequantize_per" in str(node.target) and node.args[0].name in stored:
            low, high = node.args[4:6] if "channel" in str(node.target) else node.args[3:5]
            if high - low <= _FOUR_BITS:
                four_bit.add(stored[node.args[0].name])
        dynamic = dynamic or "choose_qparams" in str(node.target)
    return IntegerFeatures(frozenset(four_bit), dynamic)


def dynamic_translations() -> dict[Any, Any]:
    """Return the exporter's translations of dynamic quantization."""
    import torch
    from onnxscript import opset18 as op

    ops = torch.ops.quantized_decomposed

    def choose(x: Any, low: int, high: int, eps: float, dtype: int) -> Any:
        _, scale, zero = op.DynamicQuantizeLinear(x)
        return scale, zero

    def quantize(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int) -> Any:
        return op.QuantizeLinear(x, scale, zero)

    def dequantize(x: Any, scale: Any, zero: Any, low: int, high: int, dtype: int) -> Any:
        return op.DequantizeLinear(x, scale, zero)

    return {
        ops.choose_qparams.tensor: choose,
        ops.quantize_per_tensor.tensor: quantize,
        ops.dequantize_per_tensor.tensor: dequantize,
    }


def lower_integers(model: Any, features: IntegerFeatures) -> None:
    """Replace simulated 4-bit weights and dynamic quantization by ONNX integers, in place."""
    if features.dynamic or features.four_bit:
        graph = _Graph(model.graph)
        for node in [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]:
            if features.dynamic:
                _integer_product(graph, node)
            else:
                _four_bit_weight(graph, node, features.four_bit)
        graph.finish()


class _Graph:
    """An ONNX graph under edit; :meth:`finish` rebuilds it."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self._graph, self._read = graph, numpy_helper.to_array
        self.producers = {name: node for node in graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._replacements: dict[str, list[Any]] = {}
        self._contents: dict[str, tuple[Any, ...]] = {}

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return a stored value, None if it is computed."""
        tensor = self._stored.get(name)
        return None if tensor is None else np.asarray(self._read(tensor))

    def store(self, name: str, value: np.ndarray[Any, Any], four_bit: bool = False) -> str:
        """Store a value and return its name: ``name``, numbered if that holds another value.

        The exporter shares one tensor between layers whose weights round to the same integers; their scales differ.
        """
        import onnx

        content = (value.dtype.str, value.shape, value.tobytes(), four_bit)
        base, number = name, 1
        while name in self._stored and self._contents.get(name) != content:
            number += 1
            name = f"{base}.{number}"
        if name not in self._stored:
            self._contents[name] = content
            if four_bit:
                kind = onnx.TensorProto.INT4 if value.dtype == np.int8 else onnx.TensorProto.UINT4
                tensor = onnx.helper.make_tensor(name, kind, value.shape, value.flatten())
            else:
                tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            self._graph.initializer.append(tensor)
            self._stored[name] = tensor
        return name

    def replace(self, node: Any, nodes: list[Any]) -> None:
        """Replace ``node`` by ``nodes``, the last of which gives its output."""
        self._replacements[node.output[0]] = nodes

    def finish(self) -> None:
        """Write the nodes, without unused ones."""
        nodes = [new for node in self._graph.node for new in self._replacements.get(node.output[0], [node])]
        used = {value.name for value in self._graph.output}
        kept: list[Any] = []
        for node in reversed(nodes):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        replace_nodes(self._graph, kept[::-1])
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in used]:
            self._graph.initializer.remove(tensor)
        del self._graph.value_info[:]


@dataclasses.dataclass(frozen=True)
class _Weight:
    """Integers of a dequantized weight in its operator's shape.

    ``scale`` and ``zero`` (None: all 0) are ``[out, groups]``.
    """

    name: str
    integers: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]
    zero: np.ndarray[Any, Any] | None


def _weight_behind(graph: _Graph, name: str) -> _Weight | None:
    """Return the weight ``[out, in, ...]`` whose dequantized (and reshaped) form is ``name``."""
    node, shape = graph.producers.get(name), None
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        if node.op_type == "Reshape":
            sizes = graph.value(node.input[1])
            shape = None if sizes is None else tuple(int(size) for size in sizes)
        node = graph.producers.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    values = [graph.value(part) for part in node.input]
    integers, scale = values[0], values[1]
    if integers is None or scale is None:
        return None
    zero = values[2] if len(values) > 2 and values[2] is not None and values[2].any() else None
    whole = integers if shape is None else integers.reshape(shape)
    out = whole.shape[0]
    return _Weight(node.input[0], whole, _by_channel(scale, out), None if zero is None else _by_channel(zero, out))


def _by_channel(values: np.ndarray[Any, Any], out: int) -> np.ndarray[Any, Any]:
    return values.reshape(out, -1) if values.size > 1 else np.full((out, 1), values)


def _four_bit_weight(graph: _Graph, node: Any, names: frozenset[str]) -> None:
    """Store a weight in 4 bits: for a matrix product as ``[in, out]`` in blocks, which runtimes fuse."""
    from onnx import helper

    weight = _weight_behind(graph, node.input[1])
    if weight is None or weight.name not in names:
        return
    integers, scale, zero = weight.integers, weight.scale, weight.zero
    groups, name = scale.shape[1], f"{weight.name}.4bit"
    attributes: dict[str, Any] = {"axis": 0}
    if node.op_type == "Conv":
        integers, scale = integers.reshape(-1, integers[0].size // groups), scale.reshape(-1)
        zero = None if zero is None else zero.reshape(-1)
    else:
        integers = integers.T
        if groups > 1:
            attributes["block_size"] = integers.shape[0] // groups
            scale, zero = scale.T, None if zero is None else zero.T
        else:
            attributes["axis"] = 1
            scale, zero = scale.reshape(-1), None if zero is None else zero.reshape(-1)
    inputs = [graph.store(name, integers, True), graph.store(f"{name}.scale", scale.astype(np.float32))]
    if zero is not None:
        inputs.append(graph.store(f"{name}.zero", zero.astype(integers.dtype), True))
    made = f"{node.output[0]}.weight"
    nodes = [helper.make_node("DequantizeLinear", inputs, [made], f"{made}.dequantize", **attributes)]
    if node.op_type == "Conv":
        shape = graph.store(f"{name}.shape", np.array(weight.integers.shape, np.int64))
        nodes.append(helper.make_node("Reshape", [made, shape], [f"{made}.whole"], f"{made}.reshape"))
        made = f"{made}.whole"
    graph.replace(node, [*nodes, *_product(node, made)])


def _product(node: Any, weight: str) -> Iterator[Any]:
    """Yield the operator with another weight; Gemm becomes MatMul and Add, because only MatMul is fused."""
    from onnx import helper

    if node.op_type != "Gemm":
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[1] = weight
        yield copy
        return
    product = f"{node.output[0]}.product" if len(node.input) > 2 else node.output[0]
    yield helper.make_node("MatMul", [node.input[0], weight], [product], f"{node.name}.product")
    if len(node.input) > 2:
        yield helper.make_node("Add", [product, node.input[2]], [node.output[0]], node.name)


def _integer_product(graph: _Graph, node: Any) -> None:
    """Use an integer product, then scale, if input and weight are both dequantized."""
    from onnx import helper

    weight, source = _weight_behind(graph, node.input[1]), _dynamic_source(graph, node.input[0])
    if weight is None or source is None or weight.zero is not None:
        return
    conv, out = node.op_type == "Conv", node.output[0]
    integers = weight.integers if conv else weight.integers.T
    scale = weight.scale.reshape(-1, *[1] * (integers.ndim - 2)) if conv else weight.scale.reshape(-1)
    stored = graph.store(f"{weight.name}.{'conv' if conv else 'matrix'}", integers)
    scales = graph.store(f"{stored}.scale", scale.astype(np.float32))
    attributes: Mapping[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute} if conv else {}
    bias = node.input[2] if len(node.input) > 2 else None
    made = [f"{out}.{word}" for word in ("sum", "float", "scale", "scaled")]
    last = out if bias is None else made[3]
    nodes = [
        helper.make_node(
            "ConvInteger" if conv else "MatMulInteger", [source[0], stored, source[2]], made[:1], **attributes
        ),
        helper.make_node("Cast", made[:1], made[1:2], to=1),
        helper.make_node("Mul", [source[1], scales], made[2:3]),
        helper.make_node("Mul", made[1:3], [last]),
    ]
    if bias is not None:
        value = graph.value(bias)
        if conv and value is not None:
            bias = graph.store(f"{bias}.shaped", value.reshape(-1, *[1] * (integers.ndim - 2)))
        nodes.append(helper.make_node("Add", [last, bias], [out]))
    graph.replace(node, nodes)


def _dynamic_source(graph: _Graph, name: str) -> tuple[str, str, str] | None:
    """Return integers, scale and zero point of a dynamically quantized value."""
    dequantize = graph.producers.get(name)
    quantize = None if dequantize is None else graph.producers.get(dequantize.input[0])
    if dequantize is None or quantize is None or quantize.op_type != "QuantizeLinear":
        return None
    ranges = graph.producers.get(quantize.input[1])
    if ranges is None or ranges.op_type != "DynamicQuantizeLinear":
        return None
    return ranges.output[0], ranges.output[1], ranges.output[2]
