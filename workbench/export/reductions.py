"""Write maxima and minima so that OpenVINO computes them rightly between quantized layers."""

from __future__ import annotations

from typing import Any

_REDUCTIONS = ("ReduceMax", "ReduceMin")


def keep_reduced_dims(model: Any) -> None:
    """Let maxima and minima keep the reduced dimensions, and take these away in a node of its own, in place.

    OpenVINO 2026.4 moves the scales of integers through a ReduceMax that drops its dimensions, and computes something
    else; through one that keeps them it does not.
    """
    from onnx import helper

    made = []
    for node in model.graph.node:
        made.append(node)
        if node.op_type not in _REDUCTIONS or len(node.input) < 2 or not node.input[1]:
            continue
        kept = next((attribute for attribute in node.attribute if attribute.name == "keepdims"), None)
        if kept is None or kept.i:  # 1 is the default
            continue
        kept.i = 1
        whole, out = f"{node.output[0]}.kept", node.output[0]
        node.output[0] = whole
        made.append(helper.make_node("Squeeze", [whole, node.input[1]], [out], f"{node.name}.squeeze"))
    if len(made) == len(model.graph.node):
        return
    content = [node.SerializeToString() for node in made]
    del model.graph.node[:]
    for data in content:
        model.graph.node.add().ParseFromString(data)
