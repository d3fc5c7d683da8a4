"""Quantize the exported float model with ONNX Runtime or NNCF, on the same calibration samples."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from workbench.compress.graph.capture import capture
from workbench.compress.handlers import Outcome, Work
from workbench.compress.layer_selection import excluded_names
from workbench.compress.quantize.annotate import LayerDecision, report_layers
from workbench.compress.quantize.qspec import Scheme, scheme_for
from workbench.compress.steps import Quantize
from workbench.core.errors import BackendUnavailable, ExportError, first_line
from workbench.core.progress import Progress
from workbench.core.quiet import silence_thread
from workbench.export.io import input_leaves
from workbench.export.onnx import export_onnx
from workbench.export.onnx_module import OnnxModule

Feed = dict[str, np.ndarray[Any, Any]]
_BATCH = 16
_MAKERS = {"onnxruntime": "ONNX Runtime's quantizer", "nncf": "NNCF"}
_TELEMETRY = "openvino_telemetry"


def quantize_native(step: Quantize, work: Work) -> Outcome:
    """Quantize with the library named by ``step.route``; the outcome's module runs the resulting ONNX file.

    Raises BackendUnavailable if the library is not installed, and ExportError if it fails on the module.
    """
    nncf = _import_nncf() if step.route == "nncf" else None
    task, module = work.task, work.module
    excluded = excluded_names(module, step.exclude, where="Quantize")
    scheme = scheme_for(step)
    work.progress(Progress("quantize", 0, 1, "exporting the float model"))
    graph = capture(module, task.examples(2), dims=task.open_dims)
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        path, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        io = export_onnx(graph, task.examples(2), path, names=task.parameter_names, dims=task.open_dims).io
        names = _layer_names(path, module)
        left = [node for node, name in names.items() if name in excluded]
        feeds = _feeds(work, io.input_names, 1 if nncf else _BATCH)
        work.progress(Progress("quantize", 0, 1, f"running {_MAKERS[step.route]}"))
        try:
            with silence_thread(new_handlers=True), _without_telemetry():
                if nncf is not None:
                    _by_nncf(nncf, path, target, feeds, left, scheme)
                else:
                    _by_onnxruntime(path, target, feeds, left, scheme)
        except Exception as error:
            raise ExportError(
                f"{_MAKERS[step.route]} failed on {type(module).__name__}: {type(error).__name__}: "
                f"{first_line(error)}. Use route='qdq'."
            ) from error
        decisions = _decisions(target, names, excluded, _MAKERS[step.route])
        quantized = OnnxModule(target.read_bytes(), io)
    notes = (*scheme.notes, f"Quantized by {_MAKERS[step.route]} on the same calibration samples.")
    return Outcome(quantized, report_layers(module, decisions), notes=notes, quantized=True)


def _feeds(work: Work, names: tuple[str, ...], size: int) -> list[Feed]:
    batches = (inputs for inputs, _ in work.task.calibration.batches(size))
    return [
        {name: np.ascontiguousarray(leaf) for name, leaf in zip(names, input_leaves(inputs), strict=True)}
        for inputs in batches
    ]


def _layer_names(path: Path, module: nn.Module) -> dict[str, str]:
    """Map the weighted nodes of a float ONNX file to modules, by the name or values of the weight."""
    import onnx

    graph = onnx.load(str(path)).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    modules = dict(module.named_modules())
    by_value = {
        form.tobytes(): name
        for name, layer in modules.items()
        if hasattr(layer, "weight") and getattr(layer.weight, "ndim", 0) > 1
        for form in _forms(layer.weight.detach().numpy())
    }
    names = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in stored:
            continue
        owner = node.input[1].rpartition(".")[0]
        value = np.ascontiguousarray(onnx.numpy_helper.to_array(stored[node.input[1]]))
        names[node.name] = owner if owner and owner in modules else by_value.get(value.tobytes(), node.name)
    return names


def _forms(weight: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    yield np.ascontiguousarray(weight)
    if weight.ndim == 2:
        yield np.ascontiguousarray(weight.T)


def _decisions(path: Path, names: Mapping[str, str], excluded: frozenset[str], maker: str) -> list[LayerDecision]:
    """Return the decision per layer of a quantized ONNX file: quantized if weight and input are dequantized."""
    import onnx

    graph = onnx.load(str(path)).graph
    producers = {name: node for node in graph.node for name in node.output}
    decisions = []
    for node in graph.node:
        if node.name not in names:
            continue
        name = names[node.name]
        done = all(_is_dequantized(producers.get(value), producers) for value in node.input[:2])
        reason = "int8 weights and inputs" if done else f"left in float by {maker}"
        decisions.append(LayerDecision(name, done, "excluded by name" if name in excluded and not done else reason))
    return decisions


def _is_dequantized(node: Any, producers: Mapping[str, Any]) -> bool:
    while node is not None and node.op_type in ("Transpose", "Reshape"):
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _by_onnxruntime(path: Path, target: Path, feeds: list[Feed], left: list[str], scheme: Scheme) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    quantize_static(
        str(path),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=scheme.step.per_channel,
        reduce_range=scheme.levels[1] < 127,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=left,
    )


def _by_nncf(nncf: Any, path: Path, target: Path, feeds: list[Feed], left: list[str], scheme: Scheme) -> None:
    import onnx
    from nncf.quantization import advanced_parameters as parameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    # No model_type: with TRANSFORMER, OpenVINO 2026.4 outputs differ from ONNX Runtime's by a quarter of their range.
    # On ONNX files NNCF 3.4 is more accurate with min-max ranges and without bias correction (digits: SQNR 40 dB, 18 dB
    # with its defaults).
    fix = parameters.OverflowFix.ENABLE if scheme.levels[1] < 127 else parameters.OverflowFix.DISABLE
    weights = parameters.QuantizationParameters(per_channel=scheme.step.per_channel)
    quantized = nncf.quantize(
        onnx.load(str(path)),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=left) if left else None,
        advanced_parameters=parameters.AdvancedQuantizationParameters(
            overflow_fix=fix,
            weights_quantization_params=weights,
            activations_range_estimator_params=Ranges.MINMAX,
            disable_bias_correction=True,
        ),
    )
    onnx.save(quantized, str(target))


def _import_nncf() -> Any:
    try:
        with silence_thread(), _without_telemetry():
            import nncf
    except ImportError as error:
        raise BackendUnavailable(
            f"Quantize(route='nncf') needs NNCF, which cannot be imported ({error}). Run "
            "pip install 'inference-workbench[nncf]', or use route='qdq'."
        ) from error
    return nncf


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the telemetry package of OpenVINO and NNCF; both run without it."""
    absent = object()
    before = sys.modules.get(_TELEMETRY, absent)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is absent:
            del sys.modules[_TELEMETRY]
        else:
            sys.modules[_TELEMETRY] = before  # type: ignore[assignment]
