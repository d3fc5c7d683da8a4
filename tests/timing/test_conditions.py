"""What the machine did: other processes, stolen time and clocks, on counters that are known."""

from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from workbench.timing import conditions
from workbench.timing.conditions import Conditions, LoadMonitor, merge_conditions
from workbench.timing.interleave import interleave

BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@pytest.fixture
def counters(monkeypatch):
    """Replace the system's counters by ones that the test moves: two cores, of which one second each has passed."""
    now = SimpleNamespace(at=0.0, busy=0.0, own=0.0, steal=0.0, mhz=3000.0, gpu=None)

    def cpu_times(percpu):
        core = SimpleNamespace(user=now.busy / 2, nice=0.0, system=0.0, irq=0.0, softirq=0.0, steal=now.steal / 2)
        return [core, core]

    monkeypatch.setattr(conditions.psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: now.at)
    monkeypatch.setattr(conditions, "allowed_cores", lambda: [0, 1])
    monkeypatch.setattr(conditions, "_own_cpu_s", lambda pids: now.own)
    monkeypatch.setattr(conditions, "_cpu_mhz", lambda: now.mhz)
    monkeypatch.setattr(conditions, "_celsius", lambda: 61.0)
    monkeypatch.setattr(conditions, "_gpu_mhz", lambda: now.gpu)
    return now


def test_what_others_took_is_all_that_was_busy_without_the_own(counters):
    watch = LoadMonitor()
    counters.at, counters.busy, counters.own = 2.0, 3.0, 2.0
    lap = watch.lap()
    assert (lap.seconds, lap.others, lap.stolen) == (2.0, 0.25, 0.0)
    assert lap.reasons == ("other processes used 25 % of the cores",)


def test_a_quiet_lap_gives_no_reason_and_the_total_holds_all_laps(counters):
    watch = LoadMonitor()
    counters.at, counters.busy, counters.own = 1.0, 2.0, 1.0
    laps = [watch.lap()]
    counters.at, counters.busy, counters.own = 10.0, 12.0, 11.0
    laps.append(watch.lap())
    assert laps[0].reasons and laps[1].reasons == ()
    assert merge_conditions(laps).others == pytest.approx(1.0 / 20) and merge_conditions([]) is None


def test_stolen_time_and_a_clock_that_falls_are_told(counters):
    counters.mhz, counters.gpu = 800.0, 210.0  # as idle as they are before anything is timed
    watch = LoadMonitor(gpu=True)
    counters.at, counters.steal, counters.mhz, counters.gpu = 2.0, 0.4, 3000.0, 1980.0
    laps = [watch.lap()]
    counters.at, counters.mhz, counters.gpu = 4.0, 2400.0, 1200.0
    whole = merge_conditions([*laps, watch.lap()])
    assert whole.reasons == (
        "the hypervisor took 5 % of the cores (steal time)",
        "the CPU clock varied from 2400 to 3000 MHz",
        "the GPU clock varied from 1200 to 1980 MHz",
    )
    assert str(whole) == (
        "4.0 s, other processes 0.0 %, steal 5.0 %, CPU 2400 to 3000 MHz, GPU 1200 to 1980 MHz, 61 °C"
    )


def test_the_clock_of_a_gpu_that_nothing_runs_on_is_no_matter(counters):
    counters.gpu = 210.0
    watch = LoadMonitor()
    laps = []
    for counters.at, counters.gpu in ((2.0, 210.0), (4.0, 1980.0)):
        laps.append(watch.lap())
    assert merge_conditions(laps).gpu_mhz is None and merge_conditions(laps).reasons == ()


def test_the_clock_is_that_of_the_fastest_core_that_may_be_used(monkeypatch):
    cores = [SimpleNamespace(current=mhz) for mhz in (800.0, 3100.0, 2900.0, 4000.0)]
    monkeypatch.setattr(conditions.psutil, "cpu_freq", lambda percpu: cores)
    monkeypatch.setattr(conditions, "allowed_cores", lambda: [0, 1, 2])
    assert conditions._cpu_mhz() == 3100.0
    monkeypatch.setattr(conditions.psutil, "cpu_freq", lambda percpu: None)
    assert conditions._cpu_mhz() is None


def test_sensors_are_read_once_a_second_at_most(counters, monkeypatch):
    reads = []
    monkeypatch.setattr(conditions, "_cpu_mhz", lambda: reads.append(1))
    watch = LoadMonitor()
    for at in (0.2, 0.4, 0.9, 1.3):
        counters.at = at
        watch.lap()
    assert len(reads) == 2


def test_a_system_without_steal_or_sensors_says_none(counters, monkeypatch):
    core = SimpleNamespace(user=0.0, system=0.0)
    monkeypatch.setattr(conditions.psutil, "cpu_times", lambda percpu: [core])
    for name in ("_cpu_mhz", "_celsius", "_gpu_mhz"):
        monkeypatch.setattr(conditions, name, lambda: None)
    watch = LoadMonitor()
    counters.at = 1.0
    lap = watch.lap()
    assert (lap.stolen, lap.mhz, lap.celsius, lap.gpu_mhz) == (None, None, None, None)
    assert str(lap) == "1.0 s, other processes 0.0 %"


def test_children_are_not_others():
    watch = LoadMonitor()
    before = conditions._own_cpu_s(())
    child = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        end = time.monotonic() + 30
        while conditions._own_cpu_s(()) - before < 0.5:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    used = conditions._own_cpu_s(()) - before  # now among those that were waited for
    assert used >= 0.45
    assert watch.lap().seconds > 0


def test_given_processes_count_as_own(monkeypatch):
    other = psutil.Process(1) if psutil.pid_exists(1) else psutil.Process().parent()
    assert conditions._own_cpu_s([other.pid]) >= conditions._own_cpu_s([])
    assert conditions._own_cpu_s([2**22 + 1]) > 0  # there is no such process


class Arm:
    def __init__(self, name):
        self.name = name

    def block(self, seconds):
        return [1.0]


class Scripted:
    """A watch whose laps are given."""

    def __init__(self, *disturbed):
        self.disturbed = list(disturbed)

    def lap(self):
        return Conditions(1.0, others=0.5 if self.disturbed.pop(0) else 0.01)


def test_disturbed_rounds_are_kept_because_the_estimator_knows_their_calls():
    watch = Scripted(False, True, True)
    timed = interleave([Arm("a"), Arm("b")], rounds=(3, 3), monitor=watch)
    assert watch.disturbed == []
    assert (len(timed.order), len(timed.blocks["a"]), len(timed.blocks["b"])) == (3, 3, 3)
    assert timed.conditions.seconds == 3.0 and timed.conditions.others == pytest.approx(1.01 / 3)
    assert timed.conditions.reasons and timed.notes


def test_quiet_rounds_have_no_note():
    timed = interleave([Arm("a")], rounds=(3, 3), monitor=Scripted(False, False, False))
    assert timed.notes == ()


def test_a_watch_sees_a_real_process_that_burns_the_cores():
    start = f"subprocess.Popen([sys.executable, '-c', {BUSY!r}], stdout=subprocess.DEVNULL)"
    burner = subprocess.Popen(  # its own child is none of ours once it has ended
        [sys.executable, "-c", f"import subprocess, sys; print({start}.pid)"], stdout=subprocess.PIPE, text=True
    )
    pid = int(burner.communicate(timeout=60)[0])
    try:
        time.sleep(0.3)
        watch = LoadMonitor()
        time.sleep(1.0)
        lap = watch.lap()
    finally:
        psutil.Process(pid).kill()
    assert lap.others is not None and lap.others > 0.1  # one busy core, or what is left of it
    assert np.isfinite(lap.others)
