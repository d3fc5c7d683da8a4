from __future__ import annotations

import sys
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_models import (
    Branches,
    Chance,
    Clashing,
    FixedBatch,
    NoTranslation,
    NumberOutput,
    ScalarOutput,
    TwoInputs,
)
from torch import nn

from workbench.core.errors import ExportError
from workbench.core.quiet import silence_thread
from workbench.export.onnx import export_onnx


def run(path, feed):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {k: np.asarray(v) for k, v in feed.items()}), strict=True))


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory):
    torch.manual_seed(0)
    module = TwoInputs()  # left in training mode on purpose
    inputs = {"image": torch.randn(2, 3, 6, 6), "tokens": torch.randint(0, 20, (2, 7))}
    path = tmp_path_factory.mktemp("export") / "two.onnx"
    state = {name: value.clone() for name, value in module.state_dict().items()}
    report = export_onnx(module, inputs, path, names=["image", "tokens"])
    return module, state, report


@pytest.mark.parametrize("size", [1, 2, 5])
def test_several_inputs_and_nested_outputs_at_any_batch_size(two_inputs, size):
    module, _, report = two_inputs
    image, tokens = torch.randn(size, 3, 6, 6), torch.randint(0, 20, (size, 7))
    got = run(report.path, {"image": image, "tokens": tokens})
    with torch.no_grad():
        want = module.eval()(image=image, tokens=tokens)
    np.testing.assert_allclose(got["logits"], want["logits"], atol=1e-5)
    np.testing.assert_allclose(got["features_0"], want["features"][0], atol=1e-5)
    np.testing.assert_array_equal(got["features_1_0"], want["features"][1][0])


def test_the_module_is_not_changed_by_its_export(two_inputs):
    module, state, _ = two_inputs
    assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())


def test_the_report_describes_the_file(two_inputs):
    report = two_inputs[2]
    assert report.io.dynamic_batch and report.io.batch is None and not report.notes
    assert [(s.name, s.dtype, s.shape) for s in report.io.inputs] == [
        ("image", "float32", (3, 6, 6)),
        ("tokens", "int64", (7,)),
    ]
    assert report.io.output_names == ("logits", "features_0", "features_1_0")
    model = onnx.load(report.path)
    assert model.opset_import[0].version == report.opset
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_the_file_holds_no_paths_of_this_machine(two_inputs):
    content = two_inputs[2].path.read_bytes()
    assert b".py" not in content and b"site-packages" not in content


def test_an_input_may_be_named_like_a_weight_and_an_output_like_a_value(tmp_path):
    module, x = Clashing(), torch.randn(3, 4)
    report = export_onnx(module, x, tmp_path / "clash.onnx", names=["weight"])
    got = run(report.path, {"weight": x})
    want = module(x)
    np.testing.assert_allclose(got["mul"], want["mul"].detach(), atol=1e-6)
    np.testing.assert_allclose(got["weight_out"], want["weight"].detach(), atol=1e-6)


def test_a_module_that_fixes_its_batch_is_written_for_that_batch(tmp_path):
    report = export_onnx(FixedBatch(), torch.randn(2, 3, 4), tmp_path / "fixed.onnx", names=["x"], batch=4)
    assert (report.io.dynamic_batch, report.io.batch) == (False, 4)
    assert "turns the batch size into a constant" in report.notes[0]
    assert run(report.path, {"x": torch.randn(4, 3, 4)})["output"].shape == (4, 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "inputs", "words"),
    [
        (Branches(), torch.randn(2, 3), "branches on the value of a tensor .*export_models.py.*x.sum"),
        (NoTranslation(), torch.randn(2, 3, 3), "aten.linalg_eig"),
        (Chance(), torch.randn(2, 3), "outputs differ from torch"),
        (ScalarOutput(), torch.randn(2, 3), "'loss' of shape"),
        (NumberOutput(), torch.randn(2, 3), "count is a int"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_sentence(tmp_path, capfd, module, inputs, words):
    path = tmp_path / "no.onnx"
    with pytest.raises(ExportError, match=words) as caught:
        export_onnx(module, inputs, path, names=["x"])
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)
    assert not path.exists()
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""


def test_every_input_needs_a_name(tmp_path):
    with pytest.raises(ExportError, match=r"one name per input \(2\)"):
        export_onnx(nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, 2)), tmp_path / "x.onnx", names=["x"])


def test_other_threads_are_heard_while_an_export_is_quiet(capsys):
    with silence_thread():
        sys.stdout.write("mine\n")
        other = threading.Thread(target=lambda: sys.stdout.write("other\n"))
        other.start()
        other.join()
    sys.stdout.write("after\n")
    assert capsys.readouterr().out == "other\nafter\n"


@pytest.mark.slow
def test_nodes_name_the_layer_that_they_came_from_and_nothing_else(tmp_path):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 8), nn.Tanh())

        def forward(self, x):
            return (self.inner(x) * 2).relu()

    export_onnx(Block().eval(), torch.zeros(2, 4), tmp_path / "block.onnx", names=["x"])
    nodes = onnx.load(str(tmp_path / "block.onnx")).graph.node
    said = {node.op_type: [(entry.key, entry.value) for entry in node.metadata_props] for node in nodes}
    assert said == {"Gemm": [("layer", "inner.0")], "Tanh": [("layer", "inner.1")], "Mul": [], "Relu": []}
