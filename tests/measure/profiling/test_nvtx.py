"""Ranges for NVIDIA's profilers, with a stand-in for the device; command lines, of which the inner part runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from workbench.artifact import save_variant
from workbench.core.errors import ConfigError
from workbench.measure.profiling.nvtx import annotate_calls, annotated, nsight_command, nvtx_reason


@pytest.fixture
def device(monkeypatch):
    """Stand in for a CUDA device, and keep what was asked of it."""
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append("wait"))
    ranges = SimpleNamespace(range_push=lambda name: said.append(f"+{name}"), range_pop=lambda: said.append("-"))
    monkeypatch.setattr(torch.cuda, "nvtx", ranges)
    switch = SimpleNamespace(start=lambda: said.append("start"), stop=lambda: said.append("stop"))
    monkeypatch.setattr(torch.cuda, "profiler", switch)
    return said


def test_every_call_has_a_range_within_one_and_only_they_are_recorded(device):
    assert annotate_calls(lambda: device.append("call"), "openvino, batch 8", calls=2) is None
    wanted = ["wait", "start", "+workbench"]
    for number in (0, 1):
        wanted += [f"+openvino, batch 8, call {number}", "call", "-"]
    assert device == [*wanted, "-", "wait", "stop"]


def test_a_range_ends_and_recording_stops_where_a_call_fails(device):
    with pytest.raises(ZeroDivisionError):
        annotate_calls(lambda: 1 / 0, "x", calls=1)
    assert device[-3:] == ["-", "-", "stop"]


def test_without_a_device_calls_are_made_and_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = []
    assert annotate_calls(lambda: done.append(1), "x", calls=3) == nvtx_reason()
    assert len(done) == 3 and "CUDA device" in nvtx_reason()
    with annotated("x") as missing:
        assert missing == nvtx_reason()


def inner(command: str) -> list[str]:
    words = shlex.split(command)
    return words[words.index(sys.executable) :]


def test_the_commands_record_the_calls_alone():
    options = {"backend": "onnxruntime", "batch_size": 8, "threads": 2, "calls": 5, "output": "out put"}
    words = shlex.split(nsight_command("artifacts/my int8", **options))
    assert words[:2] == ["nsys", "profile"] and "--capture-range=cudaProfilerApi" in words
    assert words[words.index("--output") + 1] == "out put"
    replay = inner(nsight_command("artifacts/my int8", **options))
    assert replay[:4] == [sys.executable, "-m", "workbench.measure.profiling.replay", "artifacts/my int8"]
    pairs = dict(zip(replay[4::2], replay[5::2], strict=True))
    assert pairs == {
        "--backend": "onnxruntime", "--batch-size": "8", "--device": "cuda", "--precision": "float32", "--calls": "5",
        "--threads": "2",
    }  # fmt: skip
    kernels = shlex.split(nsight_command("a", tool="ncu", task="my.py:task", trust=True))
    assert kernels[0] == "ncu" and "--profile-from-start=off" in kernels and "--export" in kernels
    assert kernels[-3:] == ["--task", "my.py:task", "--trust"]


@pytest.mark.slow
def test_what_the_profiler_runs_makes_the_calls_and_says_why_there_are_no_ranges(tiny, tmp_path):
    save_variant(tiny, tmp_path / "tiny")
    command = inner(nsight_command(tmp_path / "tiny", backend="onnxruntime", device="cpu", batch_size=4, calls=3))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if not torch.cuda.is_available():
        assert done.stderr == f"3 calls without ranges: {nvtx_reason()}.\n"
    command[command.index(str(tmp_path / "tiny"))] = str(tmp_path / "none")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "none" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool": "nvprof"}, "tool must be 'nsys' or 'ncu'"),
        ({"backend": "tensorrtx"}, "Unknown backend"),
        ({"batch_size": 0}, "batch_size must be an integer"),
        ({"calls": 1.5}, "calls must be an integer"),
        ({"threads": "2"}, "threads must be an integer"),
        ({"device": "my gpu"}, "device"),
    ],
)
def test_a_command_that_cannot_run_is_not_given(options, words):
    with pytest.raises(ConfigError, match=words):
        nsight_command("folder", **options)
    with pytest.raises(ConfigError, match="artifact must be a folder"):
        nsight_command(3)
