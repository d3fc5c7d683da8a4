"""Read a model source from an ONNX file, or from a model in OpenVINO's own format (.xml and .bin)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.lazy import optional_import
from workbench.core.untrusted import require_line, require_regular_file
from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.onnx_files import read_graph
from workbench.engine.backends.openvino.compiler_guard import crash_free_settings
from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
from workbench.engine.binding.binders import Binder
from workbench.engine.loading.batch_probe import ProbeResult, probe_batch
from workbench.export.io import IOSpec, TensorSpec
from workbench.export.onnx_graph import with_table_sizes


def source_from_onnx(path: Path, example_inputs: Any) -> ModelSource:
    """Return the model of an ONNX file; see :func:`workbench.engine.loading.source.source_from_path`."""
    with optional_import("An engine for an ONNX file"):
        import onnx  # noqa: F401 - reads the graph
        import onnxruntime  # noqa: F401 - computes the reference outputs

    model = read_graph(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [_onnx_tensor(value, path) for value in model.graph.input if value.name not in weights]
    outputs = [_onnx_tensor(value, path) for value in model.graph.output]
    io = with_table_sizes(io_of(inputs, outputs, path), model.graph)
    quantized = any("QuantizeLinear" in node.op_type or "Integer" in node.op_type for node in model.graph.node)
    result, note = _probe_onnx(path, io, example_inputs)
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


def _onnx_tensor(value: Any, path: Path) -> Tensor:
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


def _probe_onnx(path: Path, io: IOSpec, example_inputs: Any) -> tuple[ProbeResult | None, str]:
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


UNCHECKED = "outputs are not checked: only OpenVINO reads this file, so there is no reference"
UNPROBED = "not tested whether samples may share a call: {}"
_OPENVINO_ONLY = "it is an OpenVINO model, which only the backend openvino reads."


def source_from_openvino(path: Path) -> ModelSource:
    """Return the model of an ``.xml`` file; raise EngineError if it cannot be read."""
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        if file.exists() or file.is_symlink():
            require_regular_file(file, error=EngineError)
    with optional_import("An engine for an OpenVINO model"):
        import_openvino()
    try:
        model = shared_core().read_model(str(path))
    except RuntimeError as error:
        raise EngineError(
            f"{path} cannot be read as an OpenVINO model with weights in {weights.name}: {first_line(error)}"
        ) from error
    inputs = [_openvino_tensor(port, f"input_{index}", path) for index, port in enumerate(model.inputs)]
    outputs = [_openvino_tensor(port, f"output_{index}", path) for index, port in enumerate(model.outputs)]
    io, unbatchable, notes = _probe_openvino(model, io_of(inputs, outputs, path), path)
    return ModelSource(
        label=path.name,
        io=io,
        openvino_path=path,
        onnx_reason=_OPENVINO_ONLY,
        module_reason=f"{_OPENVINO_ONLY} Use backend='openvino'.",
        quantized=any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()),
        notes=(UNCHECKED, *notes),
        unbatchable=unbatchable,
    )


def _probe_openvino(model: Any, io: IOSpec, path: Path) -> tuple[IOSpec, str | None, tuple[str, ...]]:
    """Return the io with batch dimensions of the outputs, why samples cannot share a call, and notes."""
    if any(None in spec.shape for spec in io.inputs):
        return io, None, (UNPROBED.format("the file leaves the shape of its inputs open"),)
    # Two threads: with one, OpenVINO does not report shape errors.
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"}
    settings |= crash_free_settings(str(path), None, "CPU", settings)[0]
    try:
        request = shared_core().compile_model(model.clone(), "CPU", settings).create_infer_request()

        def run(inputs: Arrays) -> Arrays:
            outputs = request.infer(dict(enumerate(inputs)))
            return [np.array(outputs[index]) for index in range(len(io.outputs))]

        result = probe_batch(run, io)
    except RuntimeError as error:
        return io, None, (UNPROBED.format(f"the file does not run on random inputs ({first_line(error)})"),)
    return result.io, result.unbatchable, ()


def _openvino_tensor(port: Any, default_name: str, path: Path) -> Tensor:
    dims = port.get_partial_shape()
    shape = None if dims.rank.is_dynamic else [None if dim.is_dynamic else dim.get_length() for dim in dims]
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    return tensor_of(path, min(port.get_names(), default=default_name), dtype, shape)


Tensor = tuple[TensorSpec, int | None]
"""An input or output and its batch size; None for an open batch."""


def tensor_of(path: Path, name: str, dtype: str, shape: Sequence[int | None] | None) -> Tensor:
    """Return a tensor of a file; ``shape`` starts with the batch (else EngineError), None for an open dimension."""
    name = require_line(f"{path}: an input or output name", name, error=EngineError)
    if not shape:
        raise EngineError(f"{path}: every input and output must be a tensor with a batch dimension, {name!r} is not.")
    return TensorSpec(name, dtype, tuple(shape[1:])), shape[0]


def io_of(inputs: Sequence[Tensor], outputs: Sequence[Tensor], path: Path) -> IOSpec:
    """Return the io description of a model file; raise EngineError if fixed batch sizes differ."""
    sizes = {size for _, size in inputs if size is not None}
    if len(sizes) > 1:
        raise EngineError(f"{path}: fixed batch sizes of all inputs must agree, got {sorted(sizes)}.")
    names = [spec.name for spec, _ in outputs]
    tree = {"leaf": 0} if len(names) == 1 else {"dict": {name: {"leaf": i} for i, name in enumerate(names)}}
    return IOSpec(
        kind="tensor" if len(inputs) == 1 else "dict",
        inputs=tuple(spec for spec, _ in inputs),
        outputs=tuple(spec for spec, _ in outputs),
        output_tree=tree,
        batch=next(iter(sizes), None),
    )
