"""Device choice: by form when the config is made, by what is there when a model is loaded."""

from __future__ import annotations

import pytest
import torch

from workbench.core.config import from_dict
from workbench.core.errors import ConfigError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends.onnxruntime.providers import choose_providers
from workbench.engine.device import (
    CudaDevices,
    choose_device,
    device_index,
    find_cuda,
    openvino_device,
    wants_gpu,
    why_no_cuda,
)

NONE = why_no_cuda(built=None, version="2.13.0+cpu", gpus=(), reason="No NVIDIA GPU: NVML Shared Library Not Found.")
TWO = CudaDevices(("NVIDIA L4", "NVIDIA A10"))


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:1.0", "CUDA", "cpu:0", "", "mps", "cuda:0 "]
)
def test_what_is_no_name_of_a_device_is_refused(device):
    with pytest.raises(ConfigError, match=r"device must be 'cpu', 'cuda' or 'cuda:N' .* Leave it at None"):
        InferenceConfig(device=device)


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="contradicts use_gpu=True"):
        InferenceConfig(device="cpu", use_gpu=True)
    with pytest.raises(ConfigError, match="device must be str or None"):
        InferenceConfig(device=0)
    with pytest.raises(ConfigError, match="'tf32' is a mode of CUDA devices"):
        InferenceConfig(device="cpu", precision="tf32")
    assert InferenceConfig(device="cuda:1", precision="tf32").precision.compute == "tf32"


@pytest.mark.parametrize(
    ("options", "wants", "index"),
    [
        ({}, False, 0),
        ({"use_gpu": True}, True, 0),
        ({"device": "cpu"}, False, 0),
        ({"device": "cuda"}, True, 0),
        ({"device": "cuda:12"}, True, 12),
        ({"device": "cuda:1", "use_gpu": True}, True, 1),
    ],
)
def test_what_is_asked_for(options, wants, index):
    config = InferenceConfig(**options)
    assert wants_gpu(config) == wants and device_index(config) == index
    assert from_dict(InferenceConfig, config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "found", "name"),
    [
        ({}, TWO, "cpu"),
        ({"device": "cpu"}, TWO, "cpu"),
        ({"use_gpu": True}, TWO, "cuda:0"),
        ({"device": "cuda"}, TWO, "cuda:0"),
        ({"device": "cuda:1"}, TWO, "cuda:1"),
        ({"use_gpu": True}, NONE, "cpu"),
        ({"device": "cuda:1"}, NONE, "cpu"),
    ],
)
def test_the_device_that_is_taken(options, found, name):
    device = choose_device(InferenceConfig(**options), found)
    assert device.name == name and device.is_cuda == (name != "cpu")
    assert bool(device.notes) == (found is NONE)


def test_a_number_beyond_the_gpus_that_are_there_is_an_error_that_names_them():
    with pytest.raises(
        ConfigError, match=r"'cuda:2' does not exist\. torch finds cuda:0 \(NVIDIA L4\), cuda:1 \(NVIDIA A10"
    ):
        choose_device(InferenceConfig(device="cuda:2"), TWO)


@pytest.mark.parametrize(
    ("built", "gpus", "words", "advice"),
    [
        (None, (), "torch finds no CUDA device (No NVIDIA GPU, no driver)", "nvidia-smi must list a GPU first"),
        ("13.0", (), "torch finds no CUDA device (No NVIDIA GPU, no driver)", "nvidia-smi must list a GPU first"),
        (
            None,
            ("NVIDIA L4",),
            "torch 2.13.0+cpu is built without CUDA, and there is NVIDIA L4",
            "force-reinstall torch takes the CUDA build",
        ),
        ("13.0", ("NVIDIA L4",), "torch cannot use NVIDIA L4", "newer driver, or CUDA_VISIBLE_DEVICES hides the GPU"),
    ],
)
def test_one_line_says_what_was_asked_why_it_is_not_there_and_what_to_do(built, gpus, words, advice):
    found = why_no_cuda(built=built, version="2.13.0+cpu", gpus=gpus, reason="No NVIDIA GPU: no driver.")
    (note,) = choose_device(InferenceConfig(device="cuda"), found).notes
    assert note.startswith(f"device='cuda', but {words}: running on the CPU (")
    assert advice in note and "\n" not in note


def test_openvino_takes_intels_gpus_and_no_others():
    gpu = InferenceConfig(use_gpu=True)
    assert openvino_device(gpu, ["CPU", "GPU"]) == ("GPU", ())
    assert openvino_device(gpu, ["CPU", "GPU.0", "GPU.1"]) == ("GPU", ())
    for config, available, words in [
        (gpu, ["CPU"], "use_gpu=True, but OpenVINO finds no GPU it supports: running on the CPU"),
        (
            InferenceConfig(device="cuda:0"),
            ["CPU", "GPU"],
            "device='cuda:0', but OpenVINO does not run on CUDA devices",
        ),
    ]:
        name, (note,) = openvino_device(config, available)
        assert name == "CPU" and note.startswith(words)


def test_onnx_runtime_is_told_the_number():
    def chosen(**options):
        found = choose_providers(InferenceConfig(**options), names=known, available=available)
        return dict(found.requested), found.missing

    known = ["CPUExecutionProvider", "CUDAExecutionProvider", "DmlExecutionProvider", "TensorrtExecutionProvider"]
    available = known
    assert chosen(device="cuda:1") == ({known[1]: {"device_id": "1"}, known[0]: {}}, ())
    assert chosen(use_gpu=True) == ({known[1]: {}, known[0]: {}}, ())
    assert chosen(device="cpu") == ({known[0]: {}}, ())
    asked, _ = chosen(device="cuda:2", providers=("tensorrt", "cuda"), provider_options={"cuda": {"device_id": 0}})
    assert asked[known[3]] == {"device_id": "2"} and asked[known[1]] == {"device_id": "0"}
    available = ["DmlExecutionProvider", "CPUExecutionProvider"]
    assert known[2] in chosen(use_gpu=True)[0]
    asked, (missing,) = chosen(device="cuda")
    assert list(asked) == [known[0]] and missing.startswith("device='cuda', but this ONNX Runtime has no CUDA provider")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this says what happens without a GPU, and there is one")
@pytest.mark.parametrize("options", [{"use_gpu": True}, {"device": "cuda"}, {"device": "cuda:1"}])
def test_every_backend_degrades_to_the_cpu_with_one_line(images, backend, options):
    x = images.task.examples(3)
    with OptimizedInferenceEngine.from_variant(images, backend=backend, **options) as engine:
        (note,) = [note for note in engine.notes if "running on the CPU" in note]
        assert note.startswith("use_gpu=True, but " if "use_gpu" in options else f"device={options['device']!r}, but ")
        result = engine.predict(x)
    assert result.metrics.device == "cpu"
    with torch.no_grad():
        torch.testing.assert_close(result.result, images.module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this says what happens without a GPU, and there is one")
def test_torch_is_asked_itself():
    found = find_cuda()
    assert not found.names and found.reason and found.advice
