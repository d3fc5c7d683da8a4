"""Work around wrong results of OpenVINO for maxima and minima between quantized layers."""

from __future__ import annotations

from typing import Any

_REDUCTIONS = ("ReduceMax", "ReduceMin")


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
