"""Read and edit ONNX graphs without torch: sizes of embedding tables that inputs index, and reductions for OpenVINO."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from workbench.export.io import IOSpec

_REDUCTIONS = ("ReduceMax", "ReduceMin")
_SAME_SHAPE = frozenset({"DequantizeLinear", "QuantizeLinear", "Cast", "Identity"})
_SAME_VALUES = frozenset(
    {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Expand"}
)


def with_table_sizes(io: IOSpec, graph: Any) -> IOSpec:
    """Return ``io`` with ``below`` set for each input that indexes a table of two or more dimensions.

    Runtimes disagree on indices out of range: torch refuses them, ONNX Runtime counts negative ones from the end, and
    OpenVINO reads arbitrary memory. One-dimensional tables do not count: negative indices may be intended there.
    """
    sizes: dict[str, int] = {}
    for name, size in _lookups(graph):
        sizes[name] = min(size, sizes.get(name, size))
    inputs = tuple(dataclasses.replace(spec, below=sizes.get(spec.name)) for spec in io.inputs)
    return dataclasses.replace(io, inputs=inputs)


def _lookups(graph: Any) -> Iterator[tuple[str, int]]:
    """Yield each input that indexes a table, with the table's size."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    origins = {value.name: value.name for value in graph.input if value.name not in shapes}
    for node in graph.node:
        if not node.input or not node.output:  # possible in foreign files; the runtime refuses it
            continue
        first = node.input[0]
        if node.op_type in _SAME_SHAPE and first in shapes:
            shapes[node.output[0]] = shapes[first]
        if node.op_type in _SAME_VALUES and first in origins:
            origins[node.output[0]] = origins[first]
        table = shapes.get(first, ())
        if node.op_type == "Gather" and len(node.input) > 1 and node.input[1] in origins and len(table) > 1:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            if -len(table) <= axis < len(table):
                yield origins[node.input[1]], table[axis]


def keep_reduced_dims(model: Any) -> None:
    """Let ReduceMax and ReduceMin keep the reduced dimensions, followed by a Squeeze, in place.

    OpenVINO 2026.4 moves quantization scales through a ReduceMax that drops its dimensions, with wrong results.
    """
    from onnx import helper

    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type not in _REDUCTIONS or len(node.input) < 2 or not node.input[1]:
            continue
        keepdims = next((attribute for attribute in node.attribute if attribute.name == "keepdims"), None)
        if keepdims is None or keepdims.i:  # 1 is the default
            continue
        keepdims.i = 1
        kept, out = f"{node.output[0]}.kept", node.output[0]
        node.output[0] = kept
        nodes.append(helper.make_node("Squeeze", [kept, node.input[1]], [out], f"{node.name}.squeeze"))
    if len(nodes) > len(model.graph.node):
        replace_nodes(model.graph, nodes)


def replace_nodes(graph: Any, nodes: list[Any]) -> None:
    """Set the nodes of an ONNX graph, which may include its present ones."""
    content = [node.SerializeToString() for node in nodes]
    del graph.node[:]
    for data in content:
        graph.node.add().ParseFromString(data)
