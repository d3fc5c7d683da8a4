"""The guideline's three usage examples, nearly word for word: basic use, a batch, and a benchmark over batch sizes."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.engine import InferenceConfig, OptimizedInferenceEngine, QuantizationConfig


@pytest.mark.slow
def test_basic_use(saved, images):
    config = InferenceConfig(
        model_path=saved.folder,
        use_gpu=True,
        batch_size=16,
        quantization=QuantizationConfig(quantization_bits=8, quantize_weights=True),
    )
    engine = OptimizedInferenceEngine(config)
    engine.initialize()
    inputs = images.task.examples(16)
    result = engine.predict(inputs)
    assert result.result.shape == (16, 5) and result.metrics.batch_size == 16
    assert 0 < result.metrics.inference_time_ms <= result.metrics.total_ms
    with torch.no_grad():
        expected = images.module(inputs)
    assert (result.result - expected).abs().max() < 0.1 * (expected.max() - expected.min())
    engine.dispose()


@pytest.mark.slow
def test_a_batch(saved, images):
    inputs = [images.task.examples(20)[i : i + 1] for i in range(20)]
    with OptimizedInferenceEngine(InferenceConfig(model_path=saved.folder, batch_size=16)) as engine:
        results = engine.predict_batch(inputs)
    with torch.no_grad():
        expected = images.module(torch.cat(inputs)).numpy()
    np.testing.assert_allclose(np.concatenate([r.result for r in results]), expected, atol=1e-4)


def test_a_benchmark_over_batch_sizes(saved, images):
    found = {}
    for batch_size in [1, 4, 8, 16, 32]:
        config = InferenceConfig(model_path=saved.folder, backend="onnxruntime", batch_size=batch_size)
        with OptimizedInferenceEngine(config) as engine:
            inputs = images.task.examples(20)[np.arange(batch_size) % 20]
            times = [engine.predict(inputs).metrics.inference_time_ms for _ in range(5)]
            (call,) = wb.time_calls(
                {"predict": lambda e=engine, x=inputs: e.predict(x)}, samples=batch_size, block_s=0.01, rounds=(6, 6)
            )
        found[batch_size] = {"latency_ms": statistics.median(times), "throughput": call.per_s}
    assert list(found) == [1, 4, 8, 16, 32]
    assert all(row["latency_ms"] > 0 and row["throughput"] > 0 for row in found.values())
