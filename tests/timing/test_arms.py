"""A GPU's events around blocks: one wait per block, and the mean of its calls. A stand-in keeps the GPU's clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import workbench as wb
from workbench.core.errors import ConfigError
from workbench.timing import arms
from workbench.timing.arms import EventArm
from workbench.timing.interleave import interleave


class Gpu:
    """Works off what is ordered: every call takes ``ms`` of its clock, and none of the host's."""

    def __init__(self, ms):
        self.ms, self.clock, self.ordered, self.waits = ms, 0.0, 0, []

    def order(self):
        self.ordered += 1
        self.clock += self.ms

    def Event(self, *, enable_timing):  # noqa: N802
        assert enable_timing
        event = SimpleNamespace(at=None)
        event.record = lambda stream: setattr(event, "at", self.clock)
        event.synchronize = lambda: self.waits.append("event")
        event.elapsed_time = lambda later: later.at - event.at
        return event

    def current_stream(self, device):
        assert device == "cuda:0"
        return "stream"

    def synchronize(self, device):
        self.waits.append(device)


def make(gpu):
    return EventArm("gpu", gpu.order, device="cuda:0", settle_s=0.0, cuda=gpu)


def test_a_block_is_the_mean_of_its_calls_by_the_gpus_clock_with_one_wait():
    gpu = Gpu(ms=2.5)
    arm = make(gpu)
    arm.warm_ms = 2.5
    gpu.ordered, gpu.waits = 0, []
    assert arm.block(0.05) == [2.5]
    assert (gpu.ordered, gpu.waits) == (20, ["event"])


def test_the_length_of_a_block_follows_what_a_call_took():
    gpu = Gpu(ms=0.5)
    arm = make(gpu)
    arm.warm()
    assert arm.warm_ms is not None and arm.warm_ms >= 0
    arm.block(0.01)
    gpu.ordered = 0
    arm.block(0.01)
    assert gpu.ordered == 20


def test_it_takes_turns_like_any_arm():
    gpus = {"a": Gpu(1.0), "b": Gpu(3.0)}
    arms = [EventArm(name, gpu.order, device="cuda:0", settle_s=0.0, cuda=gpu) for name, gpu in gpus.items()]
    for arm in arms:
        arm.warm()
    blocks = interleave(arms, rounds=(6, 6), block_s=0.005).blocks
    assert {name: [list(block) for block in found] for name, found in blocks.items()} == {
        "a": [[1.0]] * 6,
        "b": [[3.0]] * 6,
    }


def test_time_calls_takes_a_device(monkeypatch):
    gpu = Gpu(4.0)
    monkeypatch.setattr(arms, "_cuda", lambda device: gpu)
    (row,) = wb.time_calls({"gpu": gpu.order}, samples=8, device="cuda:0", block_s=0.02, settle_s=0.0)
    assert (row.ms, row.per_s) == (4.0, 2000.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which is timed in tests/gpu")
def test_no_gpu_is_told_before_anything_runs():
    with pytest.raises(ConfigError, match="CUDA device"):
        wb.time_calls({"x": lambda: pytest.fail("ran")}, device="cuda:0")
