from __future__ import annotations

from pathlib import Path

import pytest

from workbench.core.config import from_dict
from workbench.core.errors import ConfigError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine, QuantizationConfig
from workbench.engine.backends import backend_status, get_backend, require_backend
from workbench.engine.names import BACKENDS, DEFAULT_BACKENDS


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "onnxruntim"}, "Did you mean 'onnxruntime'"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, "batch_size must be int"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"quantization": 8}, "quantization must be QuantizationConfig or None"),
        ({"backend": "torch-eager", "quantization": QuantizationConfig()}, "has no weight-only int8"),
        ({"backend": "torchscript", "quantization": QuantizationConfig()}, "'torchscript' has no weight-only int8"),
        ({"candidates": ()}, "candidates must not be empty"),
        ({"providers": [1]}, r"providers must be tuple of str, got \(1,\)"),
        ({"pool_limit_mib": float("inf")}, "pool_limit_mib must be finite and at least 0, got inf"),
        ({"candidates": ("openvno",)}, "Did you mean 'openvino'"),
        ({"backend": "openvino", "candidates": ("openvino",)}, "candidates has no effect"),
        ({"backend": "openvino", "compile_mode": "max-autotune"}, "compile_mode='max-autotune' has no effect"),
        ({"compile_mode": "max-autotune"}, "not for torch-eager onnxruntime openvino"),
        ({"backend": "torch-compile", "compile_mode": "max"}, "Allowed: default, max-autotune, reduce-overhead"),
    ],
)
def test_wrong_options_are_refused_when_the_config_is_made(options, words):
    with pytest.raises(ConfigError, match=words):
        InferenceConfig(model_path="m.onnx", **options)


def test_activations_are_refused_with_the_recipe_to_write():
    with pytest.raises(ConfigError, match=r'Recipe\(Quantize\(bits=8, activations="static"\)\)\.apply\(task\)'):
        QuantizationConfig(quantize_activations=True)
    with pytest.raises(ConfigError, match="has no effect"):
        QuantizationConfig(quantize_weights=False)
    with pytest.raises(ConfigError, match="quantization_bits"):
        QuantizationConfig(quantization_bits=4)


def test_the_guidelines_own_spelling_works_and_survives_json():
    config = InferenceConfig(
        model_path=Path("model.onnx"),
        use_gpu=True,
        batch_size=16,
        quantization=QuantizationConfig(quantization_bits=8, quantize_weights=True),
    )
    assert config.model_path == "model.onnx"
    assert from_dict(InferenceConfig, config.to_dict()) == config


def test_an_engine_needs_a_model(images):
    with pytest.raises(ConfigError, match="model_path is not set"):
        OptimizedInferenceEngine(InferenceConfig())
    with pytest.raises(ConfigError, match="takes an InferenceConfig"):
        OptimizedInferenceEngine("model.onnx")
    with pytest.raises(ConfigError, match="Did you mean 'batch_size'"):
        OptimizedInferenceEngine.from_variant(images, batchsize=3)
    with pytest.raises(ConfigError, match="model_path must not be given"):
        OptimizedInferenceEngine.from_variant(images, model_path="m.onnx")


def test_more_threads_than_cores_are_said(images, monkeypatch):
    monkeypatch.setattr("workbench.engine.loading.load.available_cores", lambda: 1)
    for threads, said in ((2, True), (1, False)):
        with OptimizedInferenceEngine.from_variant(images, backend="onnxruntime", threads=threads) as engine:
            note = f"threads={threads}: this process may use 1 core only, which the threads share"
            assert (note in engine.notes) == said


@pytest.mark.parametrize("backend", ["torch-eager", "onnxruntime", "openvino"])
def test_a_limit_of_gpu_memory_on_the_cpu_is_said(images, backend):
    options = {"backend": backend, "use_gpu": True, "gpu_memory_limit_mib": 512}
    with OptimizedInferenceEngine.from_variant(images, **options) as engine:
        noted = any(note.startswith("gpu_memory_limit_mib=512 has no effect") for note in engine.notes)
        assert noted == (backend != "torch-eager" or engine.placement.place == "cpu")
        assert any("has no effect on the CPU" in note for note in engine.notes) or engine.placement.place != "cpu"


def test_every_backend_says_whether_it_runs_here():
    assert tuple(BACKENDS)[:3] == DEFAULT_BACKENDS
    assert [status.name for status in backend_status(["openvino"])] == ["openvino"]
    for status in backend_status(DEFAULT_BACKENDS):
        assert status.available and status.version, status.reason
        assert set(status.to_dict()) == {"name", "available", "version", "reason", "how"}
    with pytest.raises(ConfigError, match="Unknown backend 'tensort'"):
        get_backend("tensort")


def test_a_missing_runtime_is_named_with_the_command_that_gets_it(monkeypatch):
    import sys

    from workbench.core.errors import BackendUnavailable

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r"'onnxruntime' cannot run here: .*pip install onnxruntime"):
        require_backend("onnxruntime")
