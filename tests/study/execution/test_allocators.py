"""The effect of the allocator: page faults are counted by the kernel in two real processes."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.core.allocator import allocator_state
from workbench.core.errors import Cancelled, ConfigError
from workbench.study.execution.allocators import AllocatorTime
from workbench.study.execution.machine_lock import machine_lock
from workbench.study.workers.process import CancelToken


def _wide() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(1, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64 * 256, 2)
        return torch.nn.Sequential(*layers).eval()


def wide_task() -> wb.Task:
    """A network whose activations at batch 32 are larger than what glibc keeps by default."""
    train, evaluation = torch.rand(2, 40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 2
    return wb.Task(
        name="wide",
        build=_wide,
        train=(train, targets),
        evaluation=(evaluation, targets),
        metric=lambda outputs, targets: float((outputs.argmax(1) == targets).float().mean()),
        loss=torch.nn.functional.cross_entropy,
    )


@pytest.mark.slow
@pytest.mark.skipif(allocator_state().library != "glibc", reason="This process does not run on glibc's malloc.")
def test_the_steady_allocator_takes_hardly_any_page_faults_and_keeps_memory():
    rows = wb.time_allocators(wb.Variant.original(wide_task()), batch_size=32, threads=1, budget_s=1.0)
    default, steady = rows
    assert (default.allocator, steady.allocator) == ("default", "steady")
    assert (default.speedup, default.low, default.high) == (1.0, 1.0, 1.0)
    assert default.page_faults_per_call > 100
    assert steady.page_faults_per_call < default.page_faults_per_call / 20
    assert steady.low <= steady.speedup <= steady.high
    assert steady.peak_rss_mib > 0


@pytest.mark.slow
def test_a_study_that_times_is_waited_for(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_LOCK_DIR", str(tmp_path))

    def cancel(event):
        raise Cancelled(event.message)

    with (
        machine_lock(exclusive=True, stop=CancelToken(), notify=lambda text: None),
        pytest.raises(Cancelled, match="waiting for another study"),
    ):
        wb.time_allocators(wb.Variant.original(wide_task()), batch_size=2, progress=cancel)


def test_arguments_are_checked_before_a_process_starts():
    variant = wb.Variant.original(wide_task())
    for options in ({"batch_size": 0}, {"threads": 0}, {"budget_s": 0.0}):
        with pytest.raises(ConfigError, match="time_allocators: "):
            wb.time_allocators(variant, **options)
    with pytest.raises(ConfigError, match="must be a Variant"):
        wb.time_allocators("digits")


def test_a_row_in_words():
    row = AllocatorTime("steady", 14.5, 1.6, 1.5, 1.7, 0.0, 372.0)
    assert "1.60x (95 % CI 1.50-1.70)" in str(row) and "372 MiB" in str(row)
    assert "not counted" in str(AllocatorTime("default", 1.0, 1.0, 1.0, 1.0, None, None))
