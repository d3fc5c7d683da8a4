"""Memory that really runs out, what the libraries here say then, and limits on what may be taken."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, give_pipe

from workbench.core.errors import ConfigError
from workbench.engine import InferenceConfig, OptimizedInferenceEngine
from workbench.engine.backends.oom_backoff import memory_reason
from workbench.engine.backends.torch.cuda import WATCHED, PeakMemory
from workbench.engine.backends.torch.eager import EagerSession
from workbench.engine.process.cuda import MemoryLimit


def real_errors():
    """Return a call of each library here that asks for more memory than there is."""
    from onnx import TensorProto, helper

    def onnx_model():
        nodes = [
            helper.make_node("Expand", ["x", "shape"], ["wide"]),
            helper.make_node("Mul", ["wide", "wide"], ["square"]),
            helper.make_node("ReduceSum", ["square", "axes"], ["y"], keepdims=1),
        ]
        constants = [
            helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1 << 46]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        ]
        ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1])] for name in "xy"]
        graph = helper.make_graph(nodes, "g", *ends, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9
        return model.SerializeToString()

    def in_onnxruntime():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(onnx_model(), options, providers=["CPUExecutionProvider"])
        session.run(None, {"x": np.ones((4, 1), np.float32)})

    return {
        "torch": lambda: torch.empty(1 << 50),
        "numpy": lambda: np.empty(1 << 50),
        "onnxruntime": in_onnxruntime,
    }


@pytest.mark.parametrize("library", ["torch", "numpy", "onnxruntime"])
def test_the_words_of_the_libraries_that_are_here(library):
    with pytest.raises(Exception) as caught:
        real_errors()[library]()
    assert "allocate" in memory_reason(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
@pytest.mark.slow
def test_a_real_allocator_that_runs_out_is_survived(tmp_path):
    """A child that may not have more than 800 MiB beyond what it has is given a batch that would take 2 GiB."""
    script = """
        import resource, sys
        import torch
        sys.path[:0] = ["tests/support"]
        import workbench as wb
        from engine_models import make_variant
        from torch import nn

        class Hungry(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(1, 1)

            def forward(self, x):
                return (self.linear(x).expand(-1, 1 << 23) * 1.0).mean(1, keepdim=True)

        variant = make_variant(Hungry, torch.randn(64, 1))
        with wb.OptimizedInferenceEngine.from_variant(variant, backend="torch-eager", threads=1) as engine:
            pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (pages + (800 << 20),) * 2)
            x = variant.task.examples(64)
            found = engine.predict(x).result
            torch.testing.assert_close(found, variant.module.linear(x).detach(), rtol=1e-3, atol=1e-4)
            (note,) = [note for note in engine.notes if "ran out of memory" in note]
            sys.stdout.write(note)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "with 64 samples on cpu (can't allocate memory: you tried to allocate 2147483648 bytes" in done.stdout
    assert done.stdout.endswith("larger batches run in parts of 16")


class Devices:
    """The part of torch.cuda that limits memory."""

    def __init__(self, mib=1000):
        self.mib, self.fractions = mib, {"cuda:0": 0.9, "cuda:1": 1.0}

    def get_device_properties(self, device):
        return type("Properties", (), {"total_memory": self.mib * 2**20})

    def get_per_process_memory_fraction(self, device):
        return self.fractions[device]

    def set_per_process_memory_fraction(self, fraction, device):
        self.fractions[device] = fraction


def test_the_smallest_limit_holds_and_the_first_state_comes_back():
    cuda = Devices()
    one, two = MemoryLimit(500, "cuda:0", cuda=cuda), MemoryLimit(250, "cuda:0", cuda=cuda)
    other = MemoryLimit(100, "cuda:1", cuda=cuda)
    assert cuda.fractions == {"cuda:0": 0.25, "cuda:1": 0.1}
    two.release(), two.release(), other.release()
    assert cuda.fractions == {"cuda:0": 0.5, "cuda:1": 1.0}
    one.release()
    assert cuda.fractions == {"cuda:0": 0.9, "cuda:1": 1.0}
    assert not one.notes
    more = MemoryLimit(2000, "cuda:1", cuda=cuda)
    assert more.notes == ("gpu_memory_limit_mib=2000 is more than cuda:1 has (1000): no limit",)
    assert cuda.fractions["cuda:1"] == 1.0
    more.release()


def test_a_limit_needs_a_gpu_to_limit():
    with pytest.raises(ConfigError, match=r"gpu_memory_limit_mib=512.0 has no effect .* Set use_gpu=True"):
        InferenceConfig(gpu_memory_limit_mib=512)
    with pytest.raises(ConfigError, match="gpu_memory_limit_mib must be above 0"):
        InferenceConfig(gpu_memory_limit_mib=0, use_gpu=True)
    assert InferenceConfig(gpu_memory_limit_mib=512, device="cuda:1").gpu_memory_limit_mib == 512.0


class Allocator:
    """torch.cuda's counters of memory, for a device that tests fill and empty."""

    def __init__(self):
        self.now = self.peak = self.resets = 0

    def take(self, mib):
        self.now += int(mib * 2**20)
        self.peak = max(self.peak, self.now)

    def memory_allocated(self, device):
        return self.now

    def max_memory_allocated(self, device):
        return self.peak

    def reset_peak_memory_stats(self, device):
        self.peak, self.resets = self.now, self.resets + 1


def call(peak, cuda, mib, rows=4):
    before = peak.start([np.zeros((rows, 2))])
    cuda.take(mib), cuda.take(-mib)
    peak.stop(before)


def test_an_engine_is_charged_for_its_weights_and_its_calls_and_for_nothing_else():
    cuda = Allocator()
    cuda.take(500)  # another engine's
    peak = PeakMemory("cuda:0", cuda=cuda)
    cuda.take(20)
    peak.loaded()
    assert peak.mib == 20
    call(peak, cuda, 5)
    assert peak.mib == 25
    cuda.take(-500)  # the other one is closed
    call(peak, cuda, 7)
    assert peak.mib == 27
    call(peak, cuda, 1)
    assert peak.mib == 27
    cuda.take(900), cuda.take(-900)  # somebody else's call
    call(peak, cuda, 3, rows=8)
    assert peak.mib == 27


def test_only_the_first_calls_of_a_shape_are_watched():
    cuda = Allocator()
    peak = PeakMemory("cuda:0", cuda=cuda)
    for _ in range(10):
        call(peak, cuda, 1)
    assert cuda.resets == WATCHED
    call(peak, cuda, 2, rows=5)
    assert cuda.resets == WATCHED + 1 and peak.mib == 2


def test_nothing_is_claimed_on_the_cpu(images, backend):
    x = images.task.examples(2)
    with OptimizedInferenceEngine.from_variant(images, backend=backend) as engine:
        found = [engine.predict(x), *engine.predict_batch([x]), *engine.stream([x])]
    assert [result.metrics.peak_memory_mib for result in found] == [None] * 3


def test_what_the_pipe_watches_stands_in_the_metrics(images, monkeypatch):
    cuda, counters = FakeCuda(), Allocator()
    counters.take(20)
    for name in ("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"):
        setattr(cuda, name, getattr(counters, name))

    def watched():
        peak = PeakMemory("cpu", cuda=cuda)
        counters.take(3)
        peak.loaded()
        return peak

    give_pipe(monkeypatch, cuda, peak=watched)
    on_device = EagerSession._on_device
    monkeypatch.setattr(
        EagerSession,
        "_on_device",
        lambda self, t: (counters.take(len(t[0])), counters.take(-len(t[0]))) and on_device(self, t),
    )
    x = images.task.examples(9)
    with OptimizedInferenceEngine.from_variant(images, backend="torch-eager") as engine:
        assert engine.predict(x[:2]).metrics.peak_memory_mib == 5
        assert [r.metrics.peak_memory_mib for r in engine.predict_batch([x])] == [5]  # nine calls of one sample
        assert engine.predict(x).metrics.peak_memory_mib == 12
        assert engine.predict(x[:2]).metrics.peak_memory_mib == 12
