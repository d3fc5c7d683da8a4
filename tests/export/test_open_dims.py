"""Lengths and resolutions stay open in the file, in io.json and in every backend; where they cannot, that is said."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from paths import SUPPORT
from torch import nn

import workbench as wb
from workbench.core.errors import InputError
from workbench.engine.backends import backend_status
from workbench.export.io import IOSpec
from workbench.export.onnx import export_onnx
from workbench.tasks.axes import resize

LENGTHS = f"{SUPPORT / 'lengths.py'}:lengths"
MISSING = {state.name: state.reason for state in backend_status(["torch-compile", "aot-inductor"]) if state.reason}
SLOW = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.skipif(name in MISSING, reason=str(MISSING.get(name)))])
    for name in ("torch-compile", "aot-inductor")
]


class Image(nn.Module):
    """Any resolution; an output of half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.conv(image).relu()
        return x, self.head(x.mean((2, 3)))


@functools.cache
def saved(quantize: bool, folder: str):
    task = wb.load_task(LENGTHS)
    variant = wb.Recipe(*([wb.Quantize()] if quantize else [])).apply(task)
    return task, variant, variant.save(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {quantize: str(tmp_path_factory.mktemp("open") / "a") for quantize in (False, True)}


@pytest.mark.parametrize("quantize", [False, True])
def test_the_file_and_its_description_name_what_is_open(folders, quantize):
    import onnx

    _, _, artifact = saved(quantize, folders[quantize])
    assert artifact.io.axes == ("sequence",) and artifact.io.dynamic_batch
    assert [(s.shape, s.axes) for s in artifact.io.inputs] == [((None,), ("sequence",))] * 2
    assert {s.name: s.shape for s in artifact.io.outputs} == {"logits": (4,), "each": (None, 16)}
    assert "tokens: int64 [batch, sequence]" in artifact.io.describe_inputs()
    graph = onnx.load(artifact.onnx_path).graph
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert dims == {"tokens": ["batch", "sequence"], "weight": ["batch", "sequence"]}
    again = IOSpec.from_dict(json.loads((artifact.folder / "io.json").read_text()))
    assert again == artifact.io


@pytest.mark.parametrize("backend", ["torch-eager", "onnxruntime", "openvino", "torchscript", *SLOW])
@pytest.mark.parametrize("quantize", [False, True])
def test_every_backend_runs_every_length(folders, backend, quantize):
    task, variant, artifact = saved(quantize, folders[quantize])
    options = {"backend": backend, "batch_size": 4, "build": task.build, "trust": True}
    with wb.OptimizedInferenceEngine.from_artifact(artifact, **options) as engine:
        for size in (3, 8, 17):
            inputs = resize(task.examples(4), task.open_dims, {"sequence": size})
            want, got = variant.predict(inputs), engine.predict(inputs).result
            for name in want:
                assert got[name].shape == want[name].shape
                # an int8 rounding may fall the other way where a value lies between two levels
                assert float((got[name] - want[name]).abs().max()) < (0.05 if quantize else 1e-5), (size, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        wb.Quantize(activations="dynamic"),
        wb.Quantize(activations="none", bits=4, group_size=16),
        wb.Quantize(route="onnxruntime"),
    ],
    ids=lambda step: str(step.changed()),
)
def test_every_way_of_quantizing_keeps_lengths_open(step, tmp_path):
    task = wb.load_task(LENGTHS)
    artifact = wb.Recipe(step).apply(task).save(tmp_path / "a")
    assert artifact.io.axes == ("sequence",)
    with wb.OptimizedInferenceEngine.from_artifact(artifact, backend="onnxruntime", batch_size=4) as engine:
        for size in (3, 17):
            inputs = resize(task.examples(4), task.open_dims, {"sequence": size})
            with torch.no_grad():
                want = task.model()(**inputs)["logits"]
            assert float((engine.predict(inputs).result["logits"] - want).abs().max()) < 0.1


def test_a_wrong_number_of_dimensions_or_another_size_is_refused(folders):
    task, _, artifact = saved(False, folders[False])
    with wb.OptimizedInferenceEngine.from_artifact(artifact, backend="onnxruntime") as engine:
        inputs = task.examples(2)
        with pytest.raises(InputError, match=r"tokens: int64 \[batch, sequence\]"):
            engine.predict({**inputs, "tokens": inputs["tokens"][..., None]})


def test_resolutions_are_open_too(tmp_path):
    torch.manual_seed(0)
    module, image = Image().eval(), torch.randn(2, 3, 16, 16)
    dims = [{2: "height", 3: "width"}]
    report = export_onnx(module, image, tmp_path / "m.onnx", names=["image"], dims=dims)
    assert report.io.axes == ("height", "width") and report.notes == ()
    assert [spec.shape for spec in report.io.outputs] == [(4, None, None), (2,)]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    other = torch.randn(3, 3, 10, 24)
    with torch.no_grad():
        want = module(other)
    for one, two in zip(session.run(None, {"image": other.numpy()}), want, strict=True):
        np.testing.assert_allclose(one, two.numpy(), atol=1e-5)


def test_a_module_that_fixes_a_size_is_exported_with_it_and_a_note(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    report = export_onnx(module, torch.randn(2, 3, 4), tmp_path / "m.onnx", names=["x"], dims=[{1: "sequence"}])
    assert report.io.axes == () and report.io.inputs[0].shape == (3, 4) and report.io.dynamic_batch
    assert any("fixed in the file: sequence at 3" in note for note in report.notes)


def test_old_descriptions_have_no_names():
    spec = {"name": "x", "dtype": "float32", "shape": [None]}
    io = IOSpec.from_dict(
        {"kind": "tensor", "inputs": [spec], "outputs": [spec], "output_tree": {"leaf": 0}, "batch": None}
    )
    assert io.axes == () and io.open_dims == [{}] and "x: float32 [batch, any]" in io.describe_inputs()
