"""Read an ONNX file as a model source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.lazy import optional_import
from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.onnx_files import read_graph
from workbench.engine.binding.inputs import Binder
from workbench.engine.loading.batch_probe import ProbeResult, probe_batch
from workbench.engine.loading.model_io import Tensor, io_of, tensor_of
from workbench.export.io import IOSpec
from workbench.export.onnx_graph import with_table_sizes


def source_from_onnx(path: Path, example_inputs: Any) -> ModelSource:
    """Return the model of an ONNX file; see :func:`workbench.engine.loading.source.source_from_path`."""
    with optional_import("An engine for an ONNX file"):
        import onnx  # noqa: F401 - reads the graph
        import onnxruntime  # noqa: F401 - computes the reference outputs

    model = read_graph(path)
    io = with_table_sizes(_io_of(model.graph, path), model.graph)
    quantized = any("QuantizeLinear" in node.op_type or "Integer" in node.op_type for node in model.graph.node)
    result, note = _probe(path, io, example_inputs)
    return ModelSource(
        label=path.name,
        io=io if result is None else result.io,
        onnx_path=path,
        module_reason="an ONNX file has no torch module. Use the backend onnxruntime or openvino.",
        quantized=quantized,
        reference=None if result is None else result.reference,
        notes=(note,),
        unbatchable=None if result is None else result.unbatchable,
    )


def _io_of(graph: Any, path: Path) -> IOSpec:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_tensor(value, path) for value in graph.input if value.name not in weights]
    return io_of(inputs, [_tensor(value, path) for value in graph.output], path)


def _tensor(value: Any, path: Path) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    shape: list[int | None] | None = None
    if kind.elem_type and kind.HasField("shape"):
        # Some exporters write an open dimension as -1 or 0.
        shape = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name if shape else ""
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path}: {value.name!r} has the unknown type {kind.elem_type}.") from error
    return tensor_of(path, value.name, dtype, shape)


def _probe(path: Path, io: IOSpec, example_inputs: Any) -> tuple[ProbeResult | None, str]:
    """Run the file in ONNX Runtime without optimizations; return the result and a note on the reference."""
    examples = None if example_inputs is None else Binder(io, lambda _: None).bind(example_inputs)[0]
    if examples is None and any(None in spec.shape for spec in io.inputs):
        return None, "outputs are not checked: the file leaves the shape of its inputs open"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error

    def run(inputs: Arrays) -> Arrays:
        outputs: Arrays = session.run(list(io.output_names), dict(zip(io.input_names, inputs, strict=True)))
        return outputs

    try:
        result = probe_batch(run, io, inputs=examples)
    except Exception as error:
        if examples is not None:
            raise EngineError(f"ONNX Runtime cannot run {path} on example_inputs: {first_line(error)}") from error
        return None, f"outputs are not checked: the file does not run on random inputs ({first_line(error)})"
    inputs_name = "random inputs" if examples is None else "the example inputs"
    return result, f"outputs are checked against ONNX Runtime without optimizations, on {inputs_name}"
