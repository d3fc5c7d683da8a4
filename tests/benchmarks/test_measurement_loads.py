"""Planted load, and what is concluded from pairs beside it."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

import workbench as wb
from benchmarks.loads import KINDS, planted
from benchmarks.measurement_loads import LOADS, RATIOS, LoadedPair, Repeated, loads_judged, loads_table
from workbench.timing.pace import Timing


def pair(ratio: float, *, verdict: str, low: float, high: float, load: str = "half", found: float | None = None):
    timing = Timing.of([[1.0, 1.0]] * 6)
    middle = ratio if found is None else found
    comparison = wb.measure.Comparison(
        "a", "b", timing, timing, middle, low, high, verdict, 0.01, "", estimator="median of undisturbed calls"
    )
    return LoadedPair(load, ratio, "openvino", 2, comparison)


def good(load: str = "half") -> list[LoadedPair]:
    return [
        *[pair(1.0, verdict="same", low=0.99, high=1.01, load=load)] * 20,
        *[pair(1.05, verdict="undecided", low=0.99, high=1.1, load=load)] * 20,
        *[pair(1.5, verdict="faster", low=1.4, high=1.6, load=load)] * 20,
        *[pair(4.0, verdict="faster", low=3.8, high=4.2, load=load)] * 20,
    ]


def test_pairs_that_are_right_hold():
    ((holds, words),) = loads_judged(good())
    assert holds and "40 of 40 pairs of ratio 1.5 and 4 decided" in words


@pytest.mark.parametrize(
    "wrong",
    [
        [pair(1.5, verdict="slower", low=0.8, high=0.9)] * 4,
        [pair(4.0, verdict="undecided", low=0.9, high=5.0)] * 6,
        [pair(1.5, verdict="faster", low=1.6, high=1.7)] * 20,
        [pair(1.0, verdict="faster", low=1.01, high=1.1)] * 3,
    ],
)
def test_wrong_signs_missing_decisions_missed_ratios_and_false_alarms_are_told(wrong):
    ((holds, _),) = loads_judged([*good(), *wrong])
    assert not holds


def test_each_load_is_judged_and_listed_by_itself():
    found = [*good("none"), *good("openmp")]
    assert [holds for holds, _ in loads_judged(found)] == [True, True]
    table = loads_table(found)
    assert table.count("\n") == 1 + 2 * len(RATIOS)
    assert KINDS["openmp"] in table
    assert set(LOADS) < set(KINDS)


def test_a_repeated_engine_runs_its_network_so_many_times():
    class Engine:
        backend, threads, calls = "torch-eager", 1, 0

        def predict(self, inputs):
            self.calls += 1
            return inputs

    engine = Engine()
    assert Repeated(engine, 3).predict("x") == "x" and engine.calls == 3


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="The load looks for its asker in /proc.")
def test_a_planted_load_takes_a_core_belongs_to_nobody_here_and_ends():
    before = {process.pid for process in psutil.process_iter()}
    with planted("busy"):
        mine = {process.pid for process in psutil.Process().children(recursive=True)}
        loads = [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.pid not in before and "benchmarks.loads" in (process.info["cmdline"] or [])
        ]
        assert len(loads) == 1 and loads[0].pid not in mine
        first = loads[0].cpu_times().user
        time.sleep(0.5)
        assert loads[0].cpu_times().user > first
    for _ in range(50):
        if not loads[0].is_running() or loads[0].status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("The load still runs.")
