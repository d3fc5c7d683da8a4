"""Memory: a process that touches a known amount shows it; a kernel that does not count says so."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

import workbench as wb
from workbench.core.errors import ConfigError, EngineError
from workbench.measure.resources.memory import PeakPss, _line_mib, peak_rss_mib, pss_mib, torch_call_peak_mib

MIB = 2**18  # floats in a MiB

_PEAK = """
import sys
from workbench.measure.resources.memory import peak_rss_mib
held = b"x" * (int(sys.argv[1]) * 2**20)
del held
print(peak_rss_mib()[0])
"""


def _peak(mib: int) -> float:
    run = subprocess.run([sys.executable, "-c", _PEAK, str(mib)], capture_output=True, text=True, check=True)
    return float(run.stdout)


@pytest.mark.skipif(peak_rss_mib()[0] is None, reason="this machine does not count peak memory")
def test_the_peak_grows_by_what_was_held_even_after_it_was_given_back():
    assert _peak(200) - _peak(0) == pytest.approx(200, abs=8)


def test_a_kernel_without_the_counter_gives_a_reason(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmRSS:\t 100 kB\n")
    assert _line_mib(status, "VmHWM:", "no count") == (None, f"{status} has no VmHWM line: no count.")
    assert _line_mib(tmp_path / "missing", "VmHWM:", "")[0] is None


def test_the_counter_is_read_in_mib(tmp_path: Path):
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 999 kB\nVmHWM:\t    2048 kB\n")
    assert _line_mib(status, "VmHWM:", "") == (2.0, None)


@pytest.mark.skipif(pss_mib()[0] is None, reason="this machine does not tell how pages are shared")
def test_the_proportional_set_is_the_sum_over_all_mappings():
    held = b"x" * (64 * 2**20)
    mine = pss_mib()[0]
    summed = sum(mapping.pss for mapping in psutil.Process().memory_maps(grouped=False)) / 2**20  # from smaps itself
    assert mine == pytest.approx(summed, rel=0.02) and mine > len(held) / 2**20


@pytest.mark.skipif(pss_mib()[0] is None, reason="this machine does not tell how pages are shared")
def test_pages_that_a_child_shares_count_half():
    code = (
        "import os, signal, sys\n"
        "from workbench.measure.resources.memory import pss_mib\n"
        "held = os.urandom(2**20) * 200\n"
        "alone = pss_mib()[0]\n"
        "ready, said = os.pipe()\n"
        "if (pid := os.fork()) == 0:\n"
        "    os.write(said, b'x'); signal.pause()\n"
        "os.read(ready, 1)\n"
        "print(alone - pss_mib()[0]); sys.stdout.flush(); os.kill(pid, 9); os.waitpid(pid, 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert float(run.stdout) == pytest.approx(100, abs=30)


def test_the_largest_reading_is_kept_and_said(monkeypatch):
    answers = [(None, "no file"), (30.0, None), (50.0, None), (40.0, None), (None, "gone")]
    monkeypatch.setattr("workbench.measure.resources.memory.pss_mib", lambda: answers.pop(0))
    peak = PeakPss()
    assert (peak.mib, peak.reason) == (None, "PSS was not read.")
    peak.read()
    assert (peak.mib, peak.reason) == (None, "no file")
    seen = []
    while answers:
        peak.read()
        seen.append(peak.mib)
    assert seen == [30.0, 50.0, 50.0, 50.0] and "Largest of a few readings" in peak.reason


def test_other_systems_say_that_they_do_not_tell(monkeypatch):
    monkeypatch.setattr("workbench.measure.resources.memory.platform.system", lambda: "Darwin")
    mib, reason = pss_mib()
    assert mib is None and reason is not None and "Darwin" in reason


@pytest.mark.slow
def test_the_largest_array_of_a_call_is_seen():
    allocations = wb.trace_allocations(lambda: np.ones(2**18, np.float32), calls=3)
    assert 1024 <= allocations.peak_kib < 1100 and allocations.left_kib < 1 and allocations.calls == 3


@pytest.mark.slow
def test_what_a_call_keeps_is_seen():
    kept = []
    allocations = wb.trace_allocations(lambda: kept.append(bytearray(64 * 1024)), calls=10)
    assert 640 <= allocations.left_kib < 660


def test_what_cannot_be_traced():
    with pytest.raises(ConfigError, match="call must be a function"):
        wb.trace_allocations(3)
    with pytest.raises(ConfigError, match="calls"):
        wb.trace_allocations(list, calls=0)
    tracemalloc.start()
    try:
        with pytest.raises(EngineError, match="already active"):
            wb.trace_allocations(list)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    with pytest.raises(ZeroDivisionError):
        wb.trace_allocations(lambda: 1 / 0)
    assert not tracemalloc.is_tracing()


def test_tensors_that_live_together_add_up_and_those_given_back_do_not():
    def together():
        first = torch.ones(8 * MIB)
        return first + torch.ones(8 * MIB)  # three at a time

    def one_after_the_other():
        for _ in range(3):
            torch.ones(8 * MIB).sum()

    assert torch_call_peak_mib(together) == pytest.approx(24, abs=0.1)
    assert torch_call_peak_mib(one_after_the_other) == pytest.approx(8, abs=0.1)


def test_what_was_there_before_is_not_counted():
    held = torch.ones(32 * MIB)
    assert torch_call_peak_mib(held.sum) < 1
    kept = [torch.ones(4 * MIB)]
    assert torch_call_peak_mib(kept.clear) == 0


def test_a_layer_holds_its_output():
    layer, x = torch.nn.Linear(64, 1024), torch.ones(4096, 64)
    with torch.inference_mode():
        peak = torch_call_peak_mib(lambda: layer(x))
    assert peak == pytest.approx(4096 * 1024 * 4 / 2**20, rel=0.1)


def test_what_is_no_call_is_refused():
    with pytest.raises(ConfigError, match="torch_call_peak_mib: call must be a function"):
        torch_call_peak_mib(torch.ones(1))
