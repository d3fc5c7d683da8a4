from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from workbench.artifact import Reference, save_variant
from workbench.core.errors import ArtifactError, ConfigError, EngineError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine, QuantizationConfig
from workbench.engine.loading.int8_weights import quantize_weights
from workbench.engine.loading.source import source_from_artifact

Engine = OptimizedInferenceEngine
IMAGES = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def with_reference(saved, change):
    source = source_from_artifact(saved)
    outputs = [change(output.copy()) for output in source.reference.outputs]
    return dataclasses.replace(source, reference=Reference(source.reference.inputs, outputs))


def load(source, **options):
    return Engine(InferenceConfig(backend="onnxruntime", **options), source=source).initialize()


def test_outputs_far_from_the_reference_are_an_error(saved):
    far = with_reference(saved, lambda output: output + 0.1)
    with pytest.raises(EngineError, match=r"onnxruntime gives other outputs than torch .*largest difference"):
        load(far)
    assert load(far, tolerance=10.0).max_abs_diff == pytest.approx(0.1, rel=1e-3)
    unchecked = load(far, verify=False)
    assert unchecked.max_abs_diff is None
    assert "outputs were not compared with a reference" in unchecked.notes


def test_a_quantized_model_may_round_but_not_fail(saved):
    def noisy(output):
        return output + np.random.default_rng(0).standard_normal(output.shape) * 0.08 * output.std()

    rounded = dataclasses.replace(with_reference(saved, noisy), quantized=True)
    engine = load(rounded)
    assert any("of its largest value): trust the quality measured" in note for note in engine.notes)
    wrong = dataclasses.replace(with_reference(saved, lambda output: -output), quantized=True)
    with pytest.raises(EngineError, match="root mean square"):
        load(wrong)


def test_int8_on_a_cpu_without_the_instructions_is_said(saved, monkeypatch):
    from workbench.core.machine import this_machine

    old = dataclasses.replace(this_machine(), isa=("avx2",), cpu_model="an old CPU")
    monkeypatch.setattr("workbench.engine.loading.load.this_machine", lambda: old)
    monkeypatch.setattr("workbench.engine.loading.source.this_machine", lambda: old)
    written = {"machine": {"int8_dot": True, "cpu_model": "a new CPU"}, "quantized": True}
    elsewhere = dataclasses.replace(saved, manifest={**saved.manifest, **written})
    notes = load(source_from_artifact(elsewhere)).notes
    assert any("no int8 dot product (VNNI)" in note for note in notes)
    assert any("quantized on a new CPU" in note and "an old CPU" in note for note in notes)
    assert not any("VNNI" in note for note in load(source_from_artifact(saved)).notes)


def test_an_artifact_runs_in_every_backend(saved, images, backend):
    with Engine.from_artifact(saved.folder, build=images.task.build, backend=backend, batch_size=3) as engine:
        assert engine.max_abs_diff < 1e-5 and engine.load_s > 0
        with torch.no_grad():
            np.testing.assert_allclose(engine.predict(IMAGES[:3].numpy()).result, images.module(IMAGES[:3]), atol=1e-5)


def test_an_engine_tells_how_long_its_cold_start_took(saved, images, backend):
    with Engine.from_artifact(saved.folder, build=images.task.build, backend=backend, batch_size=3) as engine:
        assert engine.first_call_s > 0
        assert engine.compile_s is None or 0 < engine.compile_s < engine.load_s
        assert (engine.compile_s is not None) == (backend == "openvino")
    with Engine.from_artifact(saved.folder, backend="onnxruntime", verify=False) as engine:
        assert engine.first_call_s is None


def test_torch_needs_the_tasks_build_for_an_artifact(saved):
    with pytest.raises(ArtifactError, match=r"build=task\.build"):
        Engine.from_artifact(saved, backend="torch-eager")


def test_engines_without_torch_import_no_torch_and_report_to_nobody(saved, backend):
    if backend == "torch-eager":
        pytest.skip("this backend is torch")
    code = (
        "import sys, numpy as np\n"
        "from workbench.engine.engine import OptimizedInferenceEngine\n"
        "with OptimizedInferenceEngine.from_artifact(sys.argv[1], backend=sys.argv[2], batch_size=2) as engine:\n"
        "    engine.predict(np.zeros((2, 3, 8, 8), np.float32)); engine.predict_batch([np.zeros((5, 3, 8, 8))])\n"
        "    assert engine.max_abs_diff < 1e-5\n"
        "bad = {'torch', 'openvino_telemetry', 'onnxscript', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code, str(saved.folder), backend], check=True)


def test_an_error_of_openvino_without_a_text_names_its_class(saved, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("workbench.engine.backends.openvino.backend.OpenVinoSession", fail)
    with pytest.raises(EngineError, match="MemoryError"):
        OptimizedInferenceEngine(InferenceConfig(model_path=saved.folder, backend="openvino")).initialize()


def test_auto_measures_and_takes_the_fastest(images):
    with Engine.from_variant(images, backend="auto", batch_size=2, threads=1) as engine:
        medians = [candidate.median_ms for candidate in engine.selection]
        assert {c.backend for c in engine.selection} == {"torch-eager", "onnxruntime", "openvino"}
        assert medians == sorted(medians) and engine.backend == engine.selection[0].backend
        assert any(note.startswith("auto: ") and note.count(" ms") == 3 for note in engine.notes)
        assert engine.max_abs_diff == engine.selection[0].max_abs_diff


def test_auto_leaves_out_what_disagrees(saved):
    with pytest.raises(EngineError, match=r"No backend can run .*onnxruntime: output 0.*openvino: output 0"):
        Engine(InferenceConfig(), source=with_reference(saved, lambda output: output + 1)).initialize()


@pytest.mark.slow
def test_a_quantized_variant_runs_everywhere_and_says_what_is_simulated(tiny_task, tmp_path):
    import workbench as wb

    variant = wb.Recipe(wb.Quantize(bits=8)).apply(tiny_task)
    artifact = save_variant(variant, tmp_path / "int8")
    assert artifact.quantized and artifact.onnx_path is not None
    right = {}
    for backend in ("torch-eager", "onnxruntime", "openvino"):
        with Engine.from_artifact(artifact, backend=backend, batch_size=64, threads=1) as engine:
            right[backend] = tiny_task.evaluate(lambda x, run=engine.predict: run(x).result)
            assert any("simulated" in note for note in engine.notes) == (backend == "torch-eager")
    assert max(right.values()) - min(right.values()) < 0.03
    with pytest.raises(ConfigError, match="is quantized already"):
        Engine.from_variant(variant, backend="onnxruntime", quantization=QuantizationConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # torch's own about a captured graph that is copied
        Engine.from_variant(variant, backend="torch-eager", threads=1).dispose()


def test_weights_are_rounded_by_at_most_half_a_step_of_their_channel(saved, tmp_path):
    target = tmp_path / "int8.onnx"
    report = quantize_weights(saved.onnx_path, target)
    assert (report.layers, report.candidates) == (1, 2)  # the head's 80 weights are left alone
    assert report.mib_after < report.mib_before
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(saved.onnx_path).graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer}
    (name,) = [n.removesuffix(".int8") for n in after if n.endswith(".int8")]
    scale = after[f"{name}.scale"].reshape(-1, 1, 1, 1)
    assert after[f"{name}.int8"].dtype == np.int8
    assert np.all(np.abs(after[f"{name}.int8"] * scale - before[name]) <= scale / 2 + 1e-7)
    onnx.checker.check_model(onnx.load(target))


def test_weight_only_runs_and_says_what_it_did(images):
    for backend in ("onnxruntime", "openvino", "auto"):
        with Engine.from_variant(images, backend=backend, quantization=QuantizationConfig()) as engine:
            assert any(note.startswith("weight-only int8: 1 of 2 weights") for note in engine.notes)
            with torch.no_grad():
                want = images.module(IMAGES)
            torch.testing.assert_close(engine.predict(IMAGES).result, want, atol=0.05, rtol=0)


def write_onnx(path, nodes, inputs, outputs, weights=()):
    def values(specs):
        return [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in specs]

    stored = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "g", values(inputs), values(outputs), stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return str(path)


@pytest.fixture
def onnx_file(tmp_path):
    """Return a user's file: y = x @ w, z = x + n, for a fixed batch of 2."""
    w = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Cast", ["n"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "m"], ["z"]),
    ]
    f, i = TensorProto.FLOAT, TensorProto.INT64
    path = write_onnx(
        tmp_path / "model.onnx",
        nodes,
        [("x", f, [2, 16]), ("n", i, [2, 1])],
        [("y", f, [2, 32]), ("z", f, [2, 16])],
        [("w", w)],
    )
    return path, w


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "auto"])
def test_a_users_onnx_file_runs_as_it_is(onnx_file, backend):
    path, w = onnx_file
    x, n = np.random.default_rng(1).standard_normal((2, 16)).astype(np.float32), np.array([[3], [4]])
    with Engine(InferenceConfig(model_path=path, backend=backend)) as engine:
        assert engine.io.batch == 2 and engine.max_abs_diff < 1e-4
        assert any("checked against ONNX Runtime" in note for note in engine.notes)
        got = engine.predict({"x": x, "n": n}).result
        np.testing.assert_allclose(got["y"], x @ w, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(got["z"], x + n, rtol=1e-5)
    with Engine(InferenceConfig(model_path=path, backend="onnxruntime", quantization=QuantizationConfig())) as engine:
        np.testing.assert_allclose(engine.predict({"x": x, "n": n}).result["y"], x @ w, atol=0.2)


def test_a_path_that_is_no_model_is_refused(tmp_path, onnx_file):
    (tmp_path / "text.onnx").write_text("not a model")
    folder = tmp_path / "folder"
    folder.mkdir()
    scalar = write_onnx(
        tmp_path / "scalar.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [])],
        [("y", TensorProto.FLOAT, [])],
    )
    for path, words in [
        (tmp_path / "gone.onnx", "does not exist"),
        (tmp_path / "text.onnx", "not an ONNX file"),
        (folder, r"folder without manifest\.json"),
        (scalar, "must be a tensor with a batch dimension, 'x'"),
    ]:
        with pytest.raises(EngineError, match=words):
            Engine(InferenceConfig(model_path=str(path), backend="onnxruntime")).initialize()
    with pytest.raises(EngineError, match="an ONNX file has no torch module"):
        Engine(InferenceConfig(model_path=onnx_file[0], backend="torch-eager")).initialize()


def test_a_model_without_large_weights_has_nothing_to_quantize(tmp_path):
    path = write_onnx(
        tmp_path / "relu.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("y", TensorProto.FLOAT, ["n", 4])],
    )
    config = InferenceConfig(model_path=path, backend="onnxruntime", quantization=QuantizationConfig())
    with pytest.raises(EngineError, match="has no weight of Conv, Gemm or MatMul"):
        Engine(config).initialize()
