"""The monitor beside what the system itself counts; pauses, marks and bounds hold whatever the machine's pace."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from workbench.core.errors import ConfigError
from workbench.measure.resources import monitor as room
from workbench.measure.resources.monitor import Monitor
from workbench.measure.resources.monitor_reader import ResourceReader, Sample, merge_pairs

MIB = 2**20


def until(condition, seconds=30.0):
    """Wait until a condition holds; the test fails if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def test_memory_is_that_of_the_process_and_its_children():
    code = "import sys; held = bytearray(b'x') * (150 * 2**20); print(flush=True); sys.stdin.read()"
    with Monitor(rate_hz=100, gpu=False) as monitor:
        until(lambda: monitor.samples)
        before = monitor.samples[-1].rss_mib
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        seen = len(monitor.samples)
        until(lambda: len(monitor.samples) > seen + 1)
        during = monitor.samples[-1].rss_mib
        child.communicate()
    own = psutil.Process().memory_info().rss / MIB
    assert during - before > 150 and before == pytest.approx(own, rel=0.2)
    assert monitor.samples[-1].rss_mib == pytest.approx(own, rel=0.2)


def test_cpu_shares_add_up_to_what_the_system_counts():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    monitor = Monitor(rate_hz=20, gpu=False)
    with monitor:
        before = os.times()
        while sum(os.times()[:2]) - sum(before[:2]) < 0.5:
            math.factorial(2000)
        taken = sum(os.times()[:2]) - sum(before[:2])
    counted = sum(s.cpu_percent / 100 * s.span_s * cores for s in monitor.samples)
    assert counted == pytest.approx(taken, abs=0.15)
    everything = sum(s.machine_percent / 100 * s.span_s * cores for s in monitor.samples)
    assert everything > 0.7 * counted
    assert all(0 <= s.cpu_percent <= 100 and 0 <= s.machine_percent <= 100 for s in monitor.samples)


def test_samples_cover_the_time_axis_without_overlap():
    with Monitor(rate_hz=200, gpu=False) as monitor:
        until(lambda: len(monitor.samples) > 10)
    edges = [(s.at_s - s.span_s, s.at_s) for s in monitor.samples]
    assert all(start == pytest.approx(end, abs=1e-6) for (_, end), (start, _) in itertools.pairwise(edges))
    assert edges[0][0] + 1e-6 >= 0 and edges[-1][1] <= monitor.seconds
    assert set(monitor.columns()) == set(Sample._fields)
    assert monitor.columns()["at_s"] == [s.at_s for s in monitor.samples]


def test_nothing_is_read_in_a_pause_and_its_time_counts_for_no_sample(monkeypatch):
    reads = []
    read = ResourceReader.read
    monkeypatch.setattr(
        ResourceReader, "read", lambda self, started: reads.append(time.perf_counter()) or read(self, started)
    )
    with Monitor(rate_hz=200, gpu=False) as monitor:
        until(lambda: len(monitor.samples) > 3)
        with monitor.paused():
            with monitor.paused():  # one in another
                seen = len(reads)
                time.sleep(0.1)
            time.sleep(0.05)
            assert len(reads) == seen
        until(lambda: len(reads) > seen + 3)
    (pause,) = monitor.pauses
    assert pause.end_s - pause.start_s > 0.14
    assert all(s.at_s <= pause.start_s or s.at_s - s.span_s >= pause.end_s - 1e-3 for s in monitor.samples)


def test_a_pause_begins_only_when_a_sample_is_done(monkeypatch):
    inside, go = threading.Event(), threading.Event()
    read = ResourceReader.read

    def slow(self, started):
        inside.set()
        go.wait(30)
        return read(self, started)

    monkeypatch.setattr(ResourceReader, "read", slow)
    monitor = Monitor(rate_hz=200, gpu=False).start()
    assert inside.wait(30)
    entered = threading.Event()

    def pause():
        with monitor.paused():
            entered.set()

    thread = threading.Thread(target=pause)
    thread.start()
    assert not entered.wait(0.1)
    go.set()
    assert entered.wait(30)
    thread.join()
    monitor.stop()


def test_marks_stand_on_the_same_axis():
    with Monitor(rate_hz=50, gpu=False) as monitor:
        monitor.mark("first")
        time.sleep(0.02)
        monitor.mark("second")
    first, second = monitor.marks
    assert (first.name, second.name) == ("first", "second")
    assert 0 <= first.at_s < second.at_s - 0.015 and second.at_s <= monitor.seconds


def test_memory_is_bounded_and_the_beginning_stays(monkeypatch):
    with Monitor(rate_hz=2000, limit=8, gpu=False) as monitor:
        for number in range(20):
            monitor.mark(str(number))
        until(lambda: monitor._taken > 40)
        for _ in range(20):
            with monitor.paused():
                pass
    assert len(monitor.samples) <= 8 and len(monitor.marks) == 8 and len(monitor.pauses) <= 8
    assert monitor.samples[0].at_s - monitor.samples[0].span_s < 0.05
    assert monitor._period > 1 / 2000


def test_joined_samples_keep_means_over_time_and_the_larger_memory():
    samples = [
        Sample(1.0, 1.0, 10, 20, 100, 50, None, 5),
        Sample(4.0, 3.0, 30, 40, 90, 70, 7, 9),
        Sample(5, 1, 1, 1, 1),
    ]
    first, second = merge_pairs(samples)
    assert first == Sample(4.0, 4.0, 25.0, 35.0, 100, 65.0, None, 8.0) and second is samples[2]


def test_stopping_is_safe_again_and_starting_goes_on_with_the_axis():
    monitor = Monitor(rate_hz=100, gpu=False)
    monitor.stop()  # never started
    assert monitor.start() is monitor.start()
    until(lambda: monitor.samples)
    monitor.stop()
    monitor.stop()
    length, count = monitor.seconds, len(monitor.samples)
    assert not monitor.running and monitor.seconds == length
    time.sleep(0.05)
    with monitor:
        until(lambda: len(monitor.samples) > count)
    (gap,) = monitor.pauses  # shown like a pause
    assert gap.start_s == pytest.approx(length) and gap.end_s - gap.start_s > 0.04
    assert threading.active_count() == len(threading.enumerate())
    assert not [t for t in threading.enumerate() if t.name == "workbench-monitor"]


def test_ctrl_c_ends_it_and_passes_on():
    with pytest.raises(KeyboardInterrupt), Monitor(rate_hz=100, gpu=False) as monitor, monitor.paused():
        raise KeyboardInterrupt
    assert not monitor.running and monitor.pauses[-1].end_s is not None


def test_a_monitor_that_fails_does_not_end_the_run(monkeypatch):
    monitor = Monitor(rate_hz=500, gpu=False).start()
    until(lambda: monitor.samples)

    def broken(self, started):
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(ResourceReader, "read", broken)
    until(lambda: monitor.error is not None)
    assert str(monitor.error) == "the driver is gone"
    with monitor.paused():
        monitor.mark("goes on")
    monitor.stop()
    assert len(monitor.samples) >= 1


def test_its_own_cost_is_that_of_its_thread(monkeypatch):
    def expensive(self, started):
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        return Sample(0, 1, 0, 0, 0)

    monkeypatch.setattr(ResourceReader, "read", expensive)
    with Monitor(rate_hz=50, gpu=False) as monitor:
        until(lambda: len(monitor.samples) >= 5)
    cost = monitor.cost
    assert cost.ms_per_sample >= 10 and cost.cpu_s >= 0.01 * len(monitor.samples)
    assert cost.share == pytest.approx(cost.cpu_s / monitor.seconds)
    assert "% of one core" in str(cost) and "samples in" in repr(monitor)


def test_gpus_are_summed_and_na_is_none():
    def device(use, used, power):
        return SimpleNamespace(gpu_utilization=lambda: use, memory_used=lambda: used, power_usage=lambda: power)

    reader = ResourceReader(devices=[device(40, 100 * MIB, 50_000), device(60, 50 * MIB, 25_000)])
    sample = reader.read(time.perf_counter())
    assert (sample.gpu_percent, sample.gpu_memory_mib, sample.gpu_watts) == (50, 150, 75)
    assert reader.gpu_reason is None
    reader = ResourceReader(devices=[device(40, 100 * MIB, "N/A"), device("N/A", 50 * MIB, 25_000)])
    assert reader.read(0.0)[-3:] == (None, 150, None)


def test_why_there_is_no_gpu_is_said(monkeypatch):
    assert "not started" in Monitor().gpu_reason
    with Monitor(gpu=False) as monitor:
        assert monitor.gpu_reason == "GPUs are left out."
    assert monitor.samples[-1][-3:] == (None, None, None)
    monkeypatch.setattr("workbench.measure.resources.monitor_reader.gpu_devices", lambda: ((), "none here"))
    with Monitor() as monitor:
        assert monitor.gpu_reason == "none here"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate_hz": 0}, "rate_hz must be a number of samples per second above 0"),
        ({"rate_hz": "2"}, "got '2'"),
        ({"limit": 1}, "limit must be an integer of at least 2"),
    ],
)
def test_bad_arguments(options, words):
    with pytest.raises(ConfigError, match=words):
        Monitor(**options)


def test_names_are_public():
    import workbench as wb

    assert wb.Monitor is room.Monitor is wb.measure.Monitor
