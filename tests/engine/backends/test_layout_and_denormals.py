"""Memory format and denormals: what the option does to the arithmetic, on every thread, and that it is put back."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from engine_models import make_variant
from torch import Tensor, nn

from workbench.core.errors import ConfigError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends.torch.modules import NOTHING, Layout
from workbench.engine.process.thread_options import can_flush, flushing
from workbench.engine.process.threads import on_workers
from workbench.export.io import IOSpec, TensorSpec

Engine = OptimizedInferenceEngine
FLUSHES = pytest.mark.skipif(not can_flush(), reason="needs Linux on x86-64 or 64-bit Arm")
LARGE = 1 << 17
"""Elements of a sample: enough for torch and ONNX Runtime to share the work out to their workers."""

FADING = {"batch_size": 4, "verify": False}
"""Not verified: outputs of zero are as far from denormal ones as can be, in shares of their range."""


class Fading(nn.Module):
    """Turns numbers around one into denormals."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e-20 * 1e-20


@pytest.fixture(scope="module")
def fading():
    return make_variant(Fading, torch.rand(8, LARGE, generator=torch.Generator().manual_seed(0)) + 0.5)


def denormals(array) -> int:
    """Count by the bits: a comparison on a thread that flushes would call them zero."""
    bits = np.ascontiguousarray(array).view(np.int32) & 0x7FFFFFFF
    return int(((bits > 0) & (bits < 0x00800000)).sum())


def plain_torch(fading) -> int:
    return denormals((fading.task.examples(4) * 1e-20 * 1e-20).numpy())


@FLUSHES
@pytest.mark.parametrize("backend", ["torch-eager", "torchscript", "onnxruntime"])
@pytest.mark.parametrize("threads", [1, 2])
def test_no_thread_computes_denormals_and_all_is_put_back(fading, backend, threads):
    x = fading.task.examples(4).numpy()
    everything = plain_torch(fading)
    assert everything == x.size
    options = {"backend": backend, "threads": threads, **FADING}
    with Engine.from_variant(fading, **options) as plain:
        assert denormals(plain.predict(x).result) == everything
        with Engine.from_variant(fading, flush_denormals=True, **options) as engine:
            assert denormals(engine.predict(x).result) == 0
            assert not flushing()
            buffers = engine.output_buffers(4)
            assert denormals(engine.predict(x, out=buffers).result) == 0
            assert not flushing()
            assert denormals(plain.predict(x).result) == everything  # the two take turns
            assert denormals(engine.predict(x).result) == 0
    assert plain_torch(fading) == everything


@FLUSHES
def test_workers_of_another_thread_flush_too_and_a_larger_team_as_well(fading):
    x = fading.task.examples(4).numpy()
    found = []

    def work(engine) -> None:
        found.append(denormals(engine.predict(x).result))

    def elsewhere(engine) -> None:
        thread = threading.Thread(target=work, args=(engine,))
        thread.start()
        thread.join()

    options = {"backend": "torch-eager", "flush_denormals": True, **FADING}
    with Engine.from_variant(fading, threads=2, **options) as engine:
        elsewhere(engine)
        with Engine.from_variant(fading, threads=4, **options) as larger:
            elsewhere(larger)
            work(larger)
        work(engine)
    assert found == [0, 0, 0, 0]


@FLUSHES
def test_openvino_says_that_it_computes_them_and_leaves_the_caller_alone(fading):
    x = fading.task.examples(4).numpy()
    with Engine.from_variant(fading, backend="openvino", threads=2, flush_denormals=True, **FADING) as engine:
        assert any("CPU_DENORMALS_OPTIMIZATION" in note for note in engine.notes)
        assert denormals(engine.predict(x).result) == plain_torch(fading)
        assert not flushing()


def test_a_platform_without_the_switch_and_one_without_workers_say_so(fading, monkeypatch):
    options = {"backend": "torch-eager", "threads": 2, "flush_denormals": True, **FADING}
    monkeypatch.setattr("workbench.engine.process.threads.can_reach_workers", lambda: False)
    with Engine.from_variant(fading, **options) as engine:
        assert any("calling thread only" in note for note in engine.notes)
    monkeypatch.setattr("workbench.engine.process.threads.can_flush", lambda: False)
    with Engine.from_variant(fading, **options) as engine:
        assert any("cannot flush denormals" in note for note in engine.notes)


def test_every_worker_is_reached_once_and_errors_come_back():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen: list[tuple[int, int]] = []
        assert on_workers(lambda number: seen.append((number, threading.get_native_id())))
        assert sorted(number for number, _ in seen) == [0, 1, 2]
        assert len({thread for _, thread in seen}) == 3
        with pytest.raises(ZeroDivisionError):
            on_workers(lambda number: 1 // number)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["torch-eager", "torchscript"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_channels_last_gives_the_same_outputs_as_contiguous_arrays(images, backend, precision):
    x = images.task.examples(4)
    with torch.no_grad():
        expected = images.module(x).numpy()
    with Engine.from_variant(
        images, backend=backend, batch_size=4, memory_format="channels_last", precision=precision
    ) as engine:
        assert NOTHING not in engine.notes
        for given in (x.numpy(), x.numpy()[:3], x.contiguous(memory_format=torch.channels_last).numpy()):
            found = engine.predict(given).result
            np.testing.assert_allclose(found, expected[: len(given)], atol=1e-5 if precision == "float32" else 0.05)
            assert found.flags.c_contiguous


class Maps(nn.Module):
    """Gives 4-d feature maps, so that the layout of the output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_outputs_with_four_dimensions_come_back_contiguous():
    variant = make_variant(Maps, torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
    x = variant.task.examples(4)
    with torch.no_grad():
        expected = variant.module(x).numpy()
    with Engine.from_variant(variant, backend="torch-eager", memory_format="channels_last", batch_size=4) as engine:
        found = engine.predict(x.numpy()).result
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, expected, atol=1e-5)
        buffers = engine.output_buffers(4)
        np.testing.assert_allclose(engine.predict(x.numpy(), out=buffers).result, expected, atol=1e-5)


def test_the_engine_computes_with_channels_last_and_the_variant_stays_as_it_was(images):
    with Engine.from_variant(images, backend="torch-eager", memory_format="channels_last") as engine:
        session = engine.session.model
        assert session._module.conv.weight.is_contiguous(memory_format=torch.channels_last)
        seen = []
        session._module.conv.register_forward_hook(lambda module, given, output: seen.append(given[0]))
        engine.predict(images.task.examples(2).numpy())
        assert seen[0].is_contiguous(memory_format=torch.channels_last) and not seen[0].is_contiguous()
    assert images.module.conv.weight.is_contiguous()


def test_a_model_with_nothing_4d_says_that_it_does_nothing(words):
    with Engine.from_variant(words, backend="torch-eager", memory_format="channels_last") as engine:
        assert NOTHING in engine.notes


def test_other_dimensions_are_left_alone():
    class Volumes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv3d(2, 3, 3), nn.Conv2d(2, 3, 3)

    module = Volumes()
    spec = TensorSpec("x", "float32", (5,))
    layout = Layout(module, IOSpec("tensor", (spec,), (spec,), {"leaf": 0}, None), "channels_last")
    assert layout.notes == () and module.first.weight.is_contiguous()
    assert module.second.weight.is_contiguous(memory_format=torch.channels_last)
    three, four = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4, 5)
    assert layout([three, four])[0] is three


@pytest.mark.parametrize("options", [{"backend": "onnxruntime"}, {"candidates": ("onnxruntime", "openvino")}])
def test_a_format_that_would_do_nothing_is_refused(options):
    with pytest.raises(
        ConfigError, match="memory_format='channels_last' has no effect: it is for the backend torch-eager"
    ):
        InferenceConfig(model_path="m.onnx", memory_format="channels_last", **options)
    assert InferenceConfig(model_path="m.onnx", memory_format="channels_last").memory_format == "channels_last"
