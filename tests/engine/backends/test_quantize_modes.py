"""The whole table of quantization modes and engines: each runs in integers as torch simulates it, or says why not."""

from __future__ import annotations

import collections
import functools
import importlib.util

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.compress import Quantize, Recipe
from workbench.compress.quantize.modes import MODES, mode_of, mode_of_recipe, refusal
from workbench.compress.variant import Variant
from workbench.core.errors import EngineError
from workbench.engine import OptimizedInferenceEngine
from workbench.engine.backends import get_backend
from workbench.engine.backends.openvino.runtime import import_openvino
from workbench.engine.names import BACKENDS
from workbench.tasks.task import Task

WEIGHTS = {"activations": "none"}
OPTIONS = {
    "static": {},
    "static symmetric": {"symmetric": "both"},
    "static asymmetric": {"symmetric": "none"},
    "dynamic": {"activations": "dynamic"},
    "8-bit weights": WEIGHTS,
    "8-bit weights asymmetric": {**WEIGHTS, "symmetric": "none"},
    "4-bit weights": {**WEIGHTS, "bits": 4},
    "4-bit weights asymmetric": {**WEIGHTS, "bits": 4, "symmetric": "none"},
    "4-bit weights in groups": {**WEIGHTS, "bits": 4, "group_size": 16},
    "4-bit weights in groups asymmetric": {**WEIGHTS, "bits": 4, "group_size": 16, "symmetric": "none"},
    "onnxruntime": {"route": "onnxruntime"},
    "nncf": {"route": "nncf"},
}
COMPILERS = ("torch-compile", "aot-inductor")
"""They take some ten seconds for each model, and are in the slow tier."""
RUNS = [(mode, engine) for mode in MODES for engine in BACKENDS if engine not in MODES[mode]]
REFUSED = [(mode, engine) for mode in MODES for engine in MODES[mode]]
TOLERANCE = 0.03
"""Share of the outputs' range that an engine's own rounding may add to the simulated one."""


class Tokens(nn.Module):
    """Convolutions, then tokens with a norm and Linears over three dimensions, then a head over two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 2, stride=2)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(F.relu(self.stem(x)))).flatten(2).transpose(1, 2)
        return self.head((x + self.fc2(F.gelu(self.fc1(self.norm(x))))).mean(1))


def build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Tokens().eval()


@functools.cache
def task() -> Task:
    x = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(48) % 4
    return Task(
        name="tokens",
        build=build,
        train=(x, y),
        evaluation=(x + 1, y),
        metric=lambda out, y: -float(F.cross_entropy(out, y)),
        loss=F.cross_entropy,
    )


@functools.cache
def variant(mode: str) -> Variant:
    if mode == "nncf" and importlib.util.find_spec("nncf") is None:
        pytest.skip("NNCF is an extra, and not installed here")
    return Recipe(Quantize(target="int8_dot", **OPTIONS[mode])).apply(task())


@functools.cache
def file(mode: str):
    """Return the ONNX file of a mode, kept open by an engine's source."""
    from workbench.engine.loading.source import source_from_variant

    return source_from_variant(variant(mode), onnx=True, batch=8).onnx_path


def test_every_mode_has_options_here_and_a_label_of_its_own() -> None:
    steps = {mode: Quantize(target="int8_dot", **options) for mode, options in OPTIONS.items()}
    assert {mode: mode_of(step) for mode, step in steps.items()} == {mode: mode for mode in MODES}
    assert len({step.label for step in steps.values()}) == len(MODES)
    for mode, step in steps.items():
        assert mode_of_recipe(Recipe(step).to_dict()) == mode
    assert mode_of_recipe(Recipe().to_dict()) is None


def run(mode: str, engine: str):
    return pytest.param(mode, engine, marks=[pytest.mark.slow] if engine in COMPILERS else [])


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "engine"), [run(mode, engine) for mode, engine in RUNS])
def test_outputs_are_those_that_torch_simulates(mode: str, engine: str) -> None:
    x = task().examples(8)
    wanted = variant(mode).predict(x).numpy()
    with OptimizedInferenceEngine.from_variant(variant(mode), backend=engine, batch_size=8) as loaded:
        got = loaded.predict(x.numpy()).result
        simulated = "int8" not in get_backend(engine).capabilities.precisions
        assert any("simulated quantization" in note for note in loaded.notes) == simulated
    assert np.abs(got - wanted).max() <= TOLERANCE * np.ptp(wanted)
    whole = build()(x).detach().numpy()
    limit = 0.25 if "4-bit" in mode or mode in ("onnxruntime", "nncf") else 0.06
    assert 0 < np.abs(wanted - whole).max() <= limit * np.ptp(whole)


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize(("mode", "engine"), REFUSED)
def test_what_an_engine_does_not_run_is_refused_with_the_reason(mode: str, engine: str) -> None:
    reason = refusal(mode, engine)
    assert reason is not None
    assert "\n" not in reason
    assert "Use the backend" in reason
    with pytest.raises(EngineError) as caught:
        OptimizedInferenceEngine.from_variant(variant(mode), backend=engine)
    assert reason in str(caught.value)


@pytest.mark.cpu_limit(5)
@pytest.mark.parametrize("mode", MODES)
def test_the_file_holds_the_integers(mode: str) -> None:
    graph = onnx.load(file(mode)).graph
    operators = collections.Counter(node.op_type for node in graph.node)
    kept = [t for t in graph.initializer if len(t.dims) > 1 and not t.name.endswith((".scale", ".zero", ".shaped"))]
    kinds = collections.Counter(onnx.TensorProto.DataType.Name(t.data_type) for t in kept)
    stored = "INT4" if "4-bit" in mode else "INT8"
    if "asymmetric" in mode:
        stored = f"U{stored}"
    assert kinds[stored] == 5
    assert not kinds["FLOAT"]
    if mode == "dynamic":
        assert (operators["MatMulInteger"], operators["ConvInteger"], operators["MatMul"]) == (3, 2, 0)
        assert operators["DynamicQuantizeLinear"] >= 4
    elif "weights" in mode:
        assert (operators["DequantizeLinear"], operators["QuantizeLinear"]) == (5, 0)
    else:
        assert operators["QuantizeLinear"] >= 5


KERNELS = {
    "static": {"QLinearConv": 2, "MatMulIntegerToFloat": 2},
    "static symmetric": {"QLinearConv": 2, "MatMulIntegerToFloat": 2},
    "static asymmetric": {"QLinearConv": 2, "MatMulIntegerToFloat": 2},
    "dynamic": {"ConvInteger": 2},
    "4-bit weights": {"MatMulNBits": 3},
    "4-bit weights asymmetric": {"MatMulNBits": 3},
    "4-bit weights in groups": {"MatMulNBits": 3},
    "4-bit weights in groups asymmetric": {"MatMulNBits": 3},
    "onnxruntime": {"QLinearConv": 2},
    "nncf": {"QLinearConv": 1, "MatMulIntegerToFloat": 2},  # it leaves the last convolution's output in float
}


@pytest.mark.parametrize("mode", KERNELS)
def test_onnx_runtime_runs_integer_kernels(mode: str, tmp_path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(file(mode)), options, providers=["CPUExecutionProvider"])
    ran = collections.Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert {name: ran[name] for name in KERNELS[mode]} == KERNELS[mode]
    if mode == "dynamic":
        assert sum(count for name, count in ran.items() if "MatMul" in name and name != "MatMul") == 3
        assert ran["MatMul"] == 0


@pytest.mark.parametrize("mode", [mode for mode, engine in RUNS if engine == "openvino"])
def test_openvino_runs_matrix_products_on_integers(mode: str) -> None:
    compiled = import_openvino().Core().compile_model(str(file(mode)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = collections.Counter()
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        found[info["layerType"].astype(str), info["runtimePrecision"].astype(str)] += 1
    products = {kind: n for (layer, kind), n in found.items() if layer == "FullyConnected"}
    convolutions = {kind: n for (layer, kind), n in found.items() if layer == "Convolution"}
    assert sum(products.values()) == 3
    assert set(products) <= {"i8", "u8", "i4", "u4"}
    if "weights" not in mode:
        assert set(convolutions) <= {"i8", "u8"}
