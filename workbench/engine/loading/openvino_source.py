"""Read a model in OpenVINO's own format (an .xml file and its weights in a .bin file) as a model source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.lazy import optional_import
from workbench.core.untrusted import require_regular_file
from workbench.engine.backends.base import ModelSource
from workbench.engine.backends.openvino.compiler_guard import crash_free_settings
from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
from workbench.engine.loading.batch_probe import probe_batch
from workbench.engine.loading.model_io import Tensor, io_of, tensor_of
from workbench.export.io import IOSpec

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
    io, unbatchable, notes = _probe(model, _io_of(model, path), path)
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


def _probe(model: Any, io: IOSpec, path: Path) -> tuple[IOSpec, str | None, tuple[str, ...]]:
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


def _io_of(model: Any, path: Path) -> IOSpec:
    inputs = [_tensor(port, f"input_{index}", path) for index, port in enumerate(model.inputs)]
    outputs = [_tensor(port, f"output_{index}", path) for index, port in enumerate(model.outputs)]
    return io_of(inputs, outputs, path)


def _tensor(port: Any, default_name: str, path: Path) -> Tensor:
    dims = port.get_partial_shape()
    shape = None if dims.rank.is_dynamic else [None if dim.is_dynamic else dim.get_length() for dim in dims]
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    return tensor_of(path, min(port.get_names(), default=default_name), dtype, shape)
