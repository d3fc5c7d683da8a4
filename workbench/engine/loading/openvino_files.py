"""A model in OpenVINO's own format (IR: an .xml file with its weights in a .bin beside it) as an engine's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from workbench.artifact.reference import Arrays
from workbench.core.errors import EngineError, first_line
from workbench.core.lazy import optional_import
from workbench.core.untrusted import require_line, require_regular_file
from workbench.engine.backends.base import ModelSource
from workbench.engine.loading.file_probe import probe
from workbench.engine.loading.source import Described, io_of
from workbench.export.io import IOSpec, TensorSpec

UNCHECKED = "an OpenVINO model has no torch, and no other runtime reads it: nothing to check outputs against"
UNPROBED = "whether samples may share a call was not tried: {}"
_ELSEWHERE = "it is an OpenVINO model, which only the backend openvino reads."


def source_from_openvino(path: Path) -> ModelSource:
    """Return the model of an ``.xml`` file.

    Raises
    ------
    EngineError
        If it cannot be read, or an input or output has no batch dimension.
    """
    for file in (path, path.with_suffix(".bin")):
        if file.exists() or file.is_symlink():
            require_regular_file(file, error=EngineError)
    with optional_import("An engine for an OpenVINO model"):
        from workbench.engine.backends.openvino.backend import import_openvino, shared_core

        import_openvino()
    try:
        model = shared_core().read_model(str(path))
    except RuntimeError as error:
        raise EngineError(
            f"{path} cannot be read as an OpenVINO model (its weights are {path.with_suffix('.bin').name} beside it): "
            f"{first_line(error)}"
        ) from error
    io, apart, note = _probed(model, _io_of(model, path), path)
    return ModelSource(
        label=path.name,
        io=io,
        openvino_path=path,
        onnx_reason=_ELSEWHERE,
        module_reason=f"{_ELSEWHERE} Use backend='openvino'.",
        quantized=any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()),
        notes=(UNCHECKED, *note),
        apart=apart,
    )


def _probed(model: Any, io: IOSpec, path: Path) -> tuple[IOSpec, str | None, tuple[str, ...]]:
    """Return the io with the batch dimension of each output, why inputs must not be joined, and what must be said."""
    from workbench.engine.backends.openvino.backend import shared_core
    from workbench.engine.backends.openvino.compiler_guard import surviving

    if any(None in spec.shape for spec in io.inputs):
        return io, None, (UNPROBED.format("the file leaves the shape of its inputs open"),)
    # two threads: with one, OpenVINO swallows errors of shapes
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": 2, "INFERENCE_PRECISION_HINT": "f32"}
    settings |= surviving(str(path), None, "CPU", settings)[0]
    try:
        request = shared_core().compile_model(model.clone(), "CPU", settings).create_infer_request()

        def run(inputs: Arrays) -> Arrays:
            found = request.infer(dict(enumerate(inputs)))
            return [np.array(found[place]) for place in range(len(io.outputs))]

        found = probe(run, io)
    except RuntimeError as error:
        return io, None, (UNPROBED.format(f"the file does not run on made-up inputs ({first_line(error)})"),)
    return found.io, found.apart, ()


def _io_of(model: Any, path: Path) -> IOSpec:
    inputs = [_tensor(port, f"input_{place}", path) for place, port in enumerate(model.inputs)]
    outputs = [_tensor(port, f"output_{place}", path) for place, port in enumerate(model.outputs)]
    return io_of(inputs, outputs, path)


def _tensor(port: Any, otherwise: str, path: Path) -> Described:
    """Return an input or output with its fixed batch size; one without a name gets that of its place."""
    shape = port.get_partial_shape()
    name = require_line(f"{path}: an input or output name", min(port.get_names(), default=otherwise), error=EngineError)
    if shape.rank.is_dynamic or not len(shape):
        raise EngineError(f"{path}: {name!r} is no tensor with a batch dimension; engines need one everywhere.")
    dims = [None if dim.is_dynamic else dim.get_length() for dim in shape]
    return TensorSpec(name, np.dtype(port.get_element_type().to_dtype()).name, tuple(dims[1:])), dims[0]
