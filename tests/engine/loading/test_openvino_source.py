"""Models in OpenVINO's own format: opened by path, with the figures that OpenVINO itself gives."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.compress.model_ops import predict_with
from workbench.core.errors import EngineError, ExportError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends.openvino.runtime import import_openvino, shared_core
from workbench.engine.loading.source import source_from_path
from workbench.export.onnx import export_onnx

openvino = import_openvino()


@pytest.fixture
def model(images, tmp_path):
    """Return the path of a model that OpenVINO wrote, with any batch size."""
    task = images.task
    export_onnx(images.module, task.examples(2), tmp_path / "m.onnx", names=task.parameter_names, batch=1)
    path = tmp_path / "m.xml"
    openvino.save_model(shared_core().read_model(str(tmp_path / "m.onnx")), str(path), compress_to_fp16=False)
    return path


@pytest.mark.parametrize("size", [4, 3])
def test_it_answers_as_torch_does_at_the_configured_and_at_another_batch_size(model, images, size):
    x = images.task.examples(size)
    with OptimizedInferenceEngine(InferenceConfig(model_path=str(model), backend="openvino", batch_size=4)) as engine:
        found = np.asarray(engine.predict(x.numpy()).result)
        assert engine.io.batch is None and engine.max_abs_diff is None
        assert any("there is no reference" in note for note in engine.notes)
    np.testing.assert_allclose(found, predict_with(images.module, x).numpy(), atol=1e-4)


def test_a_fixed_batch_size_and_ports_without_names_are_kept(tmp_path):
    opset = openvino.opset13
    x = opset.parameter([2, 3], np.float32)
    built = openvino.Model([opset.result(opset.relu(x))], [x], "m")
    openvino.save_model(built, str(tmp_path / "m.xml"))
    source = source_from_path(tmp_path / "m.xml")
    assert (source.io.batch, source.io.inputs[0].shape, source.quantized) == (2, (3,), False)
    config = InferenceConfig(model_path=str(tmp_path / "m.xml"), backend="openvino", batch_size=2)
    with OptimizedInferenceEngine(config) as engine:
        assert np.asarray(engine.predict(np.array([[-1, 2, -3], [4, -5, 6]], np.float32)).result).tolist() == [
            [0, 2, 0],
            [4, 0, 6],
        ]


def test_fake_quantize_marks_it_as_quantized(tmp_path):
    opset = openvino.opset13
    x = opset.parameter([-1, 4], np.float32, name="x")
    low, high = opset.constant(np.float32(0)), opset.constant(np.float32(1))
    rounded = opset.fake_quantize(x, low, high, low, high, 256)
    openvino.save_model(openvino.Model([opset.result(rounded)], [x], "m"), str(tmp_path / "m.xml"))
    assert source_from_path(tmp_path / "m.xml").quantized


def test_other_backends_and_what_is_no_model_are_refused_in_words(model, tmp_path):
    with pytest.raises(ExportError, match="only the backend openvino reads"):
        OptimizedInferenceEngine(InferenceConfig(model_path=str(model), backend="onnxruntime")).initialize()
    with pytest.raises(EngineError, match="only the backend openvino reads"):
        OptimizedInferenceEngine(InferenceConfig(model_path=str(model), backend="torch-eager")).initialize()
    (tmp_path / "bad.xml").write_text("<html></html>")
    with pytest.raises(EngineError, match=r"with weights in bad.bin"):
        source_from_path(tmp_path / "bad.xml")
    with pytest.raises(EngineError, match=r"Give an ONNX file, OpenVINO's .xml"):
        source_from_path(tmp_path / "none.xml")


def test_a_scalar_input_has_no_batch_dimension(tmp_path):
    opset = openvino.opset13
    x = opset.parameter([], np.float32, name="x")
    openvino.save_model(openvino.Model([opset.result(opset.relu(x))], [x], "m"), str(tmp_path / "m.xml"))
    with pytest.raises(EngineError, match="must be a tensor with a batch dimension, 'x'"):
        source_from_path(tmp_path / "m.xml")
