"""Quantizers of other libraries: the same file as a direct call gives, kept and loaded without code that runs."""

from __future__ import annotations

import copy
import importlib.util
import logging
import pickle
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from workbench.artifact import load_module, save_variant
from workbench.compress import Quantize, Recipe
from workbench.compress.graph.capture import capture
from workbench.compress.model_ops import predict_with
from workbench.compress.quantize.native import _without_telemetry
from workbench.core.errors import BackendUnavailable, ConfigError
from workbench.engine import OptimizedInferenceEngine
from workbench.export.onnx import export_onnx
from workbench.tasks.task import Task

needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="NNCF is an extra, not installed here")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.fc, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, image, shift):
        x = F.relu(self.norm(self.conv(image))).flatten(2).transpose(1, 2)
        return {"logits": self.head(F.gelu(self.fc(x)).mean(1)) + shift}


@pytest.fixture(scope="module")
def task() -> Task:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return Net().eval()

    generator = torch.Generator().manual_seed(0)
    inputs = {"image": torch.randn(40, 1, 6, 6, generator=generator), "shift": torch.randn(40, 4, generator=generator)}
    targets = torch.arange(40) % 4
    return Task(
        name="net",
        build=build,
        train=(inputs, targets),
        evaluation=({k: v + 1 for k, v in inputs.items()}, targets),
        metric=lambda out, y: -float(F.cross_entropy(out["logits"], y)),
        loss=lambda out, y: F.cross_entropy(out["logits"], y),
    )


@pytest.fixture(scope="module")
def variant(task):
    return Recipe(Quantize(route="onnxruntime", target="int8_dot")).apply(task)


def feeds(task, size):
    return [{k: v.numpy() for k, v in inputs.items()} for inputs, _ in task.calibration.batches(size)]


def float_file(task, path):
    return export_onnx(capture(task.build(), task.examples(2)), task.examples(2), path, names=["image", "shift"]).path


def test_onnx_runtimes_quantizer_gives_what_a_direct_call_gives(task, variant, tmp_path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(feeds(task, 16))

        def get_next(self):
            return next(self.left, None)

    path = float_file(task, tmp_path / "float.onnx")
    options = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    quantize_static(str(path), str(tmp_path / "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ, **options)
    assert _weights(onnx.load(tmp_path / "int8.onnx")) == _weights(onnx.load_model_from_string(variant.module.content))
    report = variant.reports[0]
    assert [(layer.name, layer.touched) for layer in report.layers] == [("conv", True), ("fc", True), ("head", True)]
    assert variant.recipe.label == "int8 (onnxruntime)"
    assert variant.quantized
    assert report.params_after == report.params_before


@pytest.mark.slow
@needs_nncf
def test_nncf_gives_what_a_direct_call_gives(task, tmp_path) -> None:
    found = Recipe(Quantize(route="nncf", target="int8_dot")).apply(task)
    with _without_telemetry():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        oracle = nncf.quantize(
            onnx.load(float_file(task, tmp_path / "float.onnx")),
            nncf.Dataset(feeds(task, 1)),
            subset_size=len(task.calibration),
            target_device=nncf.TargetDevice.CPU,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.DISABLE,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                disable_bias_correction=True,
            ),
        )
    assert _weights(oracle) == _weights(onnx.load_model_from_string(found.module.content))
    assert all(layer.touched for layer in found.reports[0].layers)


@pytest.mark.parametrize("route", ["qdq", "onnxruntime", pytest.param("nncf", marks=[needs_nncf, pytest.mark.slow])])
def test_every_route_stays_near_a_trained_float_model(tiny_task, route) -> None:
    images = tiny_task.examples(64)
    wanted = predict_with(tiny_task.model(), images)
    error = Recipe(Quantize(route=route, target="int8_dot")).apply(tiny_task).predict(images) - wanted
    assert 10 * torch.log10(wanted.square().sum() / error.square().sum()) > 25


def _weights(model):
    kept = [t for t in model.graph.initializer if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)]
    return sorted(onnx.numpy_helper.to_array(t).tobytes() for t in kept)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["onnxruntime", pytest.param("nncf", marks=needs_nncf)])
def test_excluded_layers_stay_in_float(task, route) -> None:
    report = Recipe(Quantize(route=route, exclude=("head",))).apply(task).reports[0]
    assert {layer.name: layer.reason for layer in report.layers if not layer.touched} == {"head": "excluded by name"}
    assert report.touched == 2


def test_weights_have_seven_bits_for_cpus_without_a_dot_product(task) -> None:
    found = Recipe(Quantize(route="onnxruntime", target="no_int8_dot")).apply(task)
    graph = onnx.load_model_from_string(found.module.content).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == 3 and len(t.dims) > 1]
    assert len(weights) == 3
    assert max(int(np.abs(weight.astype(int)).max()) for weight in weights) <= 64
    assert "no int8 dot product" in found.reports[0].notes[0]


def test_the_module_can_be_copied_pickled_and_called_with_any_batch(task, variant) -> None:
    x = task.examples(3)
    wanted = variant.predict(x)["logits"]
    for module in (copy.deepcopy(variant.module), pickle.loads(pickle.dumps(variant.module))):
        assert torch.equal(module(**x)["logits"], wanted)
    assert variant.predict(task.examples(1))["logits"].shape == (1, 4)


@pytest.mark.slow
def test_an_artifact_holds_the_file_alone_and_needs_no_trust(task, variant, tmp_path) -> None:
    artifact = save_variant(variant, tmp_path / "native")
    assert set(artifact.manifest["files"]) == {"io.json", "model.onnx", "reference.npz"}
    assert artifact.onnx_path.read_bytes() == variant.module.content
    assert artifact.manifest["recipe"]["steps"][0]["route"] == "onnxruntime"
    x = task.examples(4)
    assert torch.equal(load_module(artifact)(**x)["logits"], variant.predict(x)["logits"])
    with OptimizedInferenceEngine.from_artifact(artifact, backend="auto", batch_size=4) as engine:
        got = engine.predict(x).result["logits"]
        reasons = {candidate.backend: candidate.reason for candidate in engine.selection}
    assert float((got - variant.predict(x)["logits"]).abs().max()) < 0.05
    assert "only an ONNX file" in reasons["torch-eager"]


def test_a_missing_nncf_is_answered_with_the_command(task, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'inference-workbench\[nncf\]'"):
        Recipe(Quantize(route="nncf")).apply(task)


@pytest.mark.slow
def test_the_libraries_leave_no_handler_behind(task, variant) -> None:
    before = list(logging.getLogger().handlers)
    Recipe(Quantize(route="onnxruntime", per_channel=False)).apply(task)
    assert logging.getLogger().handlers == before
    assert sys.modules.get("openvino_telemetry", 0) is not None


def test_options_that_a_foreign_quantizer_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="ignores activations, equalize"):
        Quantize(route="nncf", activations="dynamic", equalize="cross_layer")
