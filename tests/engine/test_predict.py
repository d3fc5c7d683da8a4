from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from engine_models import Branches, FixedBatch, Same, make_variant
from paths import ROOT, SUPPORT

from workbench.core.errors import ConfigError, EngineError, ExportError, InputError
from workbench.engine import OptimizedInferenceEngine

Engine = OptimizedInferenceEngine
IMAGES = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def eager(variant, inputs):
    with torch.no_grad():
        return variant.module(**inputs) if isinstance(inputs, dict) else variant.module(inputs)


def test_outputs_are_torchs_at_any_batch_size(images, backend):
    with Engine.from_variant(images, backend=backend, batch_size=4, threads=1) as engine:
        assert (engine.backend, engine.threads) == (backend, 1)
        assert engine.max_abs_diff < 1e-5
        for size in (1, 4, 9):
            result = engine.predict(IMAGES[:size])
            torch.testing.assert_close(result.result, eager(images, IMAGES[:size]), atol=1e-5, rtol=1e-4)
            assert result.metrics.batch_size == size


def test_what_is_given_comes_back_numpy_or_torch(images, backend):
    with Engine.from_variant(images, backend=backend) as engine:
        assert isinstance(engine.predict(IMAGES[:1]).result, torch.Tensor)
        assert isinstance(engine.predict(IMAGES[:1].numpy()).result, np.ndarray)


def test_the_eager_structure_comes_back(words, backend):
    inputs = {"weight": torch.rand(3), "tokens": torch.randint(0, 30, (3, 7))}
    with Engine.from_variant(words, backend=backend, batch_size=3) as engine:
        got = engine.predict(inputs).result
        want = eager(words, inputs)
        torch.testing.assert_close(got["logits"], want["logits"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(got["more"][0], want["more"][0], atol=1e-5, rtol=1e-4)
        assert torch.equal(got["more"][1], want["more"][1])
        assert got["more"][1].dtype == torch.int64


@pytest.mark.parametrize("kind", ["task", "module", "nothing"])
def test_what_is_no_variant_is_told_how_to_make_one(images, backend, kind):
    given = {"task": images.task, "module": images.module, "nothing": None}[kind]
    words = rf"^from_variant takes a Variant, got {type(given).__name__}: Variant\.original\(task\) makes one\.$"
    with pytest.raises(ConfigError, match=words):
        Engine.from_variant(given, backend=backend)


def test_metrics_add_up(images, backend):
    with Engine.from_variant(images, backend=backend) as engine:
        metrics = engine.predict(IMAGES[:1]).metrics
    assert metrics.total_ms == pytest.approx(metrics.queue_ms + metrics.copy_ms + metrics.compute_ms)
    assert metrics.inference_time_ms == metrics.compute_ms > 0
    assert (metrics.device, metrics.backend) == ("cpu", backend)


def test_results_belong_to_the_caller(images, backend):
    with Engine.from_variant(images, backend=backend, batch_size=2) as engine:
        first = engine.predict(IMAGES[:2].numpy()).result
        kept = first.copy()
        engine.predict(IMAGES[2:4].numpy())
        np.testing.assert_array_equal(first, kept)
        first[:] = 7
        np.testing.assert_array_equal(engine.predict(IMAGES[:2].numpy()).result, kept)


def test_a_module_that_gives_its_input_back_gives_a_copy(backend):
    variant = make_variant(Same, torch.randn(20, 3))
    x = np.ones((2, 3), np.float32)
    with Engine.from_variant(variant, backend=backend, batch_size=2) as engine:
        assert not np.shares_memory(engine.predict(x).result, x)


def test_read_only_inputs_are_taken(images, backend):
    x = IMAGES[:2].numpy().copy()
    x.flags.writeable = False
    with Engine.from_variant(images, backend=backend, batch_size=2) as engine:
        np.testing.assert_allclose(engine.predict(x).result, eager(images, IMAGES[:2]), atol=1e-5)


def test_predict_batch_joins_and_splits_in_order(images, backend):
    items = [IMAGES[0:1], IMAGES[1:6].numpy(), IMAGES[6:8], IMAGES[8:9]]
    with Engine.from_variant(images, backend=backend, batch_size=4) as engine:
        results = engine.predict_batch(items)
        assert engine.predict_batch([]) == []
        with pytest.raises(InputError, match=r"Item 1: .*was given with shape"):
            engine.predict_batch([IMAGES[:1], IMAGES[0]])
        with pytest.raises(InputError, match="takes a list"):
            engine.predict_batch(IMAGES)
    joined = np.concatenate([np.asarray(r.result) for r in results])
    np.testing.assert_allclose(joined, eager(images, IMAGES), atol=1e-5)
    assert [r.metrics.batch_size for r in results] == [1, 5, 2, 1]
    assert isinstance(results[1].result, np.ndarray) and isinstance(results[2].result, torch.Tensor)
    for metrics in (r.metrics for r in results):
        assert metrics.total_ms == pytest.approx(metrics.queue_ms + metrics.copy_ms + metrics.compute_ms)


def test_a_fixed_batch_is_padded_and_cut(backend):
    variant = make_variant(FixedBatch, torch.randn(20, 6))
    x = torch.randn(10, 6)
    with Engine.from_variant(variant, backend=backend, batch_size=4) as engine:
        if backend != "torch-eager":
            assert engine.io.batch == 4
            assert any("batch size is fixed at 4" in note for note in engine.notes)
            with pytest.raises(InputError, match="fixed batch of 4, got 10"):
                engine.predict(x)
        torch.testing.assert_close(engine.predict(x[:3]).result, eager(variant, x[:3]), atol=1e-5, rtol=1e-4)
        results = engine.predict_batch([x[:1], x[1:]])
        torch.testing.assert_close(torch.cat([r.result for r in results]), eager(variant, x), atol=1e-5, rtol=1e-4)


def test_a_module_that_cannot_be_exported_runs_in_torch_only():
    variant = make_variant(Branches, torch.randn(20, 3))
    for backend in ("torch-eager", "auto"):
        with Engine.from_variant(variant, backend=backend) as engine:
            assert engine.backend == "torch-eager"
            assert engine.predict(torch.ones(1, 3)).result.tolist() == [[1, 1, 1]]
    assert "branches on the value" in engine.selection[1].reason
    with pytest.raises(ExportError, match=r"'onnxruntime' needs an ONNX file.*branches on the value of a tensor"):
        Engine.from_variant(variant, backend="onnxruntime")


def test_an_engine_is_used_between_initialize_and_dispose(images, saved, backend):
    engine = Engine.from_variant(images, backend=backend)
    assert engine.initialize() is engine
    engine.dispose()
    engine.dispose()
    for use in (lambda: engine.predict(IMAGES[:1]), lambda: engine.predict_batch([IMAGES]), engine.initialize):
        with pytest.raises(EngineError, match="was disposed"):
            use()
    assert "disposed" in repr(engine)


def test_before_initialize_the_error_says_what_to_do(saved):
    from workbench.engine import InferenceConfig

    engine = Engine(InferenceConfig(model_path=str(saved.folder), backend="onnxruntime"))
    with pytest.raises(EngineError, match=r"engine\.initialize\(\)"):
        engine.predict(IMAGES[:1])
    with engine:
        assert engine.predict(IMAGES[:1]).result.shape == (1, 5)


def test_threads_share_an_engine(images, backend):
    wrong = []
    want = eager(images, IMAGES).numpy()
    with Engine.from_variant(images, backend=backend, threads=1) as engine:

        def work(i):
            for _ in range(20):
                got = engine.predict(IMAGES[i : i + 1].numpy()).result
                if not np.allclose(got, want[i : i + 1], atol=1e-5):
                    wrong.append(i)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_two_engines_at_once_do_not_mix(images, words):
    tokens = {"weight": torch.rand(2), "tokens": torch.randint(0, 30, (2, 7))}
    with (
        Engine.from_variant(images, backend="openvino") as a,
        Engine.from_variant(words, backend="openvino") as b,
        Engine.from_variant(images, backend="onnxruntime") as c,
    ):
        for _ in range(3):
            torch.testing.assert_close(a.predict(IMAGES[:1]).result, c.predict(IMAGES[:1]).result)
            torch.testing.assert_close(b.predict(tokens).result["logits"], eager(words, tokens)["logits"])


def test_torchs_threads_are_put_back(images):
    before = torch.get_num_threads()
    first = Engine.from_variant(images, backend="torch-eager", threads=before + 1)
    second = Engine.from_variant(images, backend="torch-eager", threads=before + 2)
    for engine in (first, second, first):
        engine.predict(IMAGES[:1])
        assert torch.get_num_threads() == engine.threads
    first.dispose()
    first.dispose()
    assert torch.get_num_threads() != before
    second.dispose()
    assert torch.get_num_threads() == before


def test_the_variants_module_is_not_touched(images):
    state = {name: value.clone() for name, value in images.module.state_dict().items()}
    with Engine.from_variant(images, backend="torch-eager") as engine:
        engine.session.model._module.head.weight.data.zero_()
    assert all(torch.equal(state[name], value) for name, value in images.module.state_dict().items())


def test_a_gpu_that_is_not_there_is_said(images, backend):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with Engine.from_variant(images, backend=backend, use_gpu=True) as engine:
        assert sum("use_gpu=True" in note and "running on the CPU" in note for note in engine.notes) == 1
        assert engine.predict(IMAGES[:1]).metrics.device == "cpu"


def test_a_failing_runtime_is_reported_in_one_line(images, monkeypatch):
    with Engine.from_variant(images, backend="onnxruntime") as engine:
        monkeypatch.setattr(
            engine.session.model, "run", lambda arrays: (_ for _ in ()).throw(RuntimeError("no\nmemory"))
        )
        with pytest.raises(EngineError, match=r"onnxruntime failed while it ran the model: no$"):
            engine.predict(IMAGES[:1])


@pytest.mark.slow
def test_temporary_exports_go_with_their_variant():
    import gc

    from engine_models import words_variant

    from workbench.engine.loading.source import source_from_variant

    variant = words_variant()
    first = source_from_variant(variant, onnx=True, batch=1)
    assert source_from_variant(variant, onnx=True, batch=8) is first  # exported once
    path = first.onnx_path
    assert path.is_file()
    del first, variant
    gc.collect()
    assert not path.parent.exists()


@pytest.mark.slow
def test_ctrl_c_after_openvino_engines_that_closed_in_the_order_they_opened():
    """Each Core installs a stack for signal handlers; a freed one left behind would end the process by a signal."""
    script = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job may start with it ignored
from engine_models import Images, make_variant
from workbench.engine import OptimizedInferenceEngine
import torch
variant = make_variant(Images, torch.randn(4, 3, 8, 8))
engines = [OptimizedInferenceEngine.from_variant(variant, backend="openvino") for _ in range(2)]
for engine in engines:
    engine.dispose()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    raise SystemExit(7)
"""
    folders = os.pathsep.join([str(SUPPORT), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script], env={**os.environ, "PYTHONPATH": folders}, timeout=120
    )
    assert ended.returncode == 7
