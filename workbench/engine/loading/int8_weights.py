"""Weight-only int8: store the weights of an ONNX file as int8 with a scale per output channel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workbench.core.errors import ConfigError, EngineError
from workbench.core.files import TemporaryFolder
from workbench.engine.backends.base import ModelSource, require_onnx

MIN_WEIGHTS = 256
"""Smaller weights stay float: their scales would outweigh the savings."""


class WeightReport(NamedTuple):
    """Weights stored as int8 (``layers`` of ``candidates``), and the file size before and after (MiB)."""

    layers: int
    candidates: int
    mib_before: float
    mib_after: float

    def __str__(self) -> str:
        return (
            f"weight-only int8: {self.layers} of {self.candidates} weights stored as int8 with a scale per channel, "
            f"file {self.mib_before:.2f} -> {self.mib_after:.2f} MiB"
        )


def quantize_weights(source: Path, target: Path) -> WeightReport:
    """Write ``source`` to ``target`` with the constant weights of Conv, Gemm and MatMul as int8.

    Each becomes an int8 initializer and a DequantizeLinear node: symmetric, round to nearest, one scale per output
    channel. The error of a weight is at most half of its channel's largest absolute value over 127.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = [name for node in model.graph.node for name in node.input]
    nodes, done, candidates = [], 0, 0
    for node in model.graph.node:
        axis = _channel_axis(node, stored)
        if axis is not None:
            candidates += 1
            tensor = stored[node.input[1]]
            weight = numpy_helper.to_array(tensor)
            if weight.size >= MIN_WEIGHTS and uses.count(tensor.name) == 1:
                done += 1
                nodes.append(_dequantize(onnx, model.graph, node, tensor, weight, axis))
        nodes.append(node)
    if not done:
        raise EngineError(
            f"{source.name} has no weight of Conv, Gemm or MatMul with {MIN_WEIGHTS} or more float values. "
            "Leave InferenceConfig.quantization at None."
        )
    kept = [node.SerializeToString() for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(onnx.NodeProto.FromString(data) for data in kept)
    onnx.save(model, str(target))
    return WeightReport(done, candidates, source.stat().st_size / 2**20, target.stat().st_size / 2**20)


def _channel_axis(node: Any, stored: dict[str, Any]) -> int | None:
    """Return the axis of the output channels in a node's constant float weight, None without one."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2 or node.input[1] not in stored:
        return None
    tensor = stored[node.input[1]]
    if tensor.data_type != 1 or len(tensor.dims) < 2 or (node.op_type == "MatMul" and len(tensor.dims) != 2):
        return None
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def _dequantize(onnx: Any, graph: Any, node: Any, tensor: Any, weight: np.ndarray[Any, Any], axis: int) -> Any:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others), 1e-12).astype(np.float32) / np.float32(127)
    shape = [1] * weight.ndim
    shape[axis] = -1
    rounded = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(rounded, f"{name}.int8"))
    graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}.scale"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}.zero"))
    return onnx.helper.make_node(
        "DequantizeLinear", [f"{name}.int8", f"{name}.scale", f"{name}.zero"], [name], f"{name}.dequantize", axis=axis
    )


def weight_only(source: ModelSource) -> ModelSource:
    """Return a float source with its weights stored as int8, in a temporary file that lives with the source."""
    if source.quantized:
        raise ConfigError(f"{source.label} is quantized already. Leave InferenceConfig.quantization at None.")
    path = require_onnx(source, "weight-only int8")
    folder = TemporaryFolder()
    target = folder.path / "model.onnx"
    report = quantize_weights(path, target)
    return dataclasses.replace(
        source,
        onnx_path=target,
        quantized=True,
        module=None,
        module_reason="weight-only int8 exists as an ONNX file only.",
        notes=(*source.notes, str(report)),
        keep_alive=(folder, source.keep_alive),
    )
