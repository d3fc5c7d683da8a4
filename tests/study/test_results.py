"""Columns of a row from blocks of known length, without a clock."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.study.results import FOOTPRINT, Noise, Twin, cold_columns, footprint_columns, timed_columns
from workbench.study.seen import seen_note


def columns(base_ms: float, *, row_ms: float | None, noise=Twin()):  # noqa: B008 - frozen
    blocks = [np.full(5, 2.0) + i / 1000 for i in range(6)]
    base = [np.full(5, base_ms) + i / 1000 for i in range(6)]
    cold = {"load_s": 0.1, "compile_s": None, "first_call_s": 0.01}
    opened = {"cold": cold, "max_abs_diff": 0.0, "notes": [], "steady": True}
    arm = SimpleNamespace(
        trial=SimpleNamespace(batch_size=4, backend="onnxruntime"),
        opened=opened,
        figures={"peak_rss_mib": (10.0, None)},
    )
    return timed_columns(arm, blocks, base, noise, base_ms=row_ms)


def test_a_model_that_knows_the_validation_split_is_told_of():
    words = seen_note(0.99, 0.92, samples=(2000, 1000))
    assert "it scores 0.99 there and 0.92 on the evaluation split" in words and "validation=(inputs, targets)" in words
    # two proportions, pooled: 3 standard errors of 500 and 500 samples around 0.96 are 18.6 samples
    assert pytest.approx(18.6, abs=0.02) == 500 * 3 * (0.96 * 0.04 * (2 / 500)) ** 0.5
    assert seen_note(489 / 500, 471 / 500, samples=(500, 500)) is None
    assert seen_note(490 / 500, 470 / 500, samples=(500, 500)) is not None
    no_shares = [(0.9812, 0.9), (31.0, 0.9), (0.9, -0.2), (float("nan"), 0.9)]
    for unknown in (*no_shares, (None, 0.9), (0.9, None), (0.8, 0.9), (1.0, 1.0)):
        assert seen_note(*unknown, samples=(500, 500)) is None


@pytest.mark.parametrize(("base_ms", "times"), [(40.0, "4.0"), (4.0, "0.4")])
def test_a_baseline_far_from_its_own_row_leaves_the_speedup_undecided(base_ms, times):
    found = columns(base_ms, row_ms=10.0)
    assert found["speedup"] == pytest.approx(base_ms / 2, rel=0.01)
    assert found["verdict"] == "undecided"
    assert f"the baseline took {times} times as long as in its own row" in found["notes"]["speedup"]


@pytest.mark.parametrize("row_ms", [10.0, None])
def test_a_baseline_at_its_usual_pace_decides(row_ms):
    found = columns(12.0, row_ms=row_ms)
    assert found["verdict"] == "faster"
    assert "speedup" not in found["notes"]


def test_the_cold_start_is_told_in_parts_that_add_up():
    opened = {"cold": {"load_s": 0.5, "compile_s": 0.4, "first_call_s": 0.02}}
    notes: dict[str, str] = {}
    found = cold_columns(SimpleNamespace(opened=opened, trial=SimpleNamespace(backend="openvino")), notes)
    assert found == pytest.approx({"load_ms": 100.0, "compile_ms": 400.0, "first_call_ms": 20.0}) and notes == {}
    opened["cold"] |= {"compile_s": None, "first_call_s": None}
    found = cold_columns(SimpleNamespace(opened=opened, trial=SimpleNamespace(backend="onnxruntime")), notes)
    assert found == {"load_ms": 500.0, "compile_ms": None, "first_call_ms": None}
    assert "part of load_ms" in notes["compile_ms"] and "first_call_ms" in notes


def test_memory_and_energy_come_with_a_word_where_one_is_needed():
    said = {
        "peak_rss_mib": (10.0, None),
        "peak_pss_mib": (8.0, "The largest of a few readings."),
        "gpu_memory_mib": (None, "It ran on the CPU."),
        "energy_mj_per_sample": (None, None),
    }
    notes: dict[str, str] = {}
    found = footprint_columns(SimpleNamespace(figures=said), notes)
    assert tuple(found) == FOOTPRINT
    assert (found["peak_rss_mib"], found["peak_pss_mib"]) == (10.0, 8.0)
    assert notes == {
        "peak_pss_mib": "The largest of a few readings.",
        "gpu_memory_mib": "It ran on the CPU.",
        "allocator_peak_mib": "It was not measured.",
        "energy_mj_per_sample": "It was not measured.",
    }


@pytest.mark.parametrize(
    ("machine", "apart", "seen"),
    [(0.01, 1.04, "two processes of the baseline (A-A)"), (0.05, 1.03, "when this machine's noise was measured")],
)
def test_a_floor_above_the_usual_says_where_it_comes_from(tmp_path, monkeypatch, machine, apart, seen):
    monkeypatch.setattr("workbench.study.results.machine_floor", lambda: machine)
    noise = Noise(tmp_path / "noise.json")
    first = [np.full(5, 2.0) + i / 1000 for i in range(6)]
    noise.measure(SimpleNamespace(key="k"), [apart * block for block in first], first)
    twin = noise.of(SimpleNamespace(key="k"))
    assert twin.floor == pytest.approx(max(machine, apart - 1)) and seen in twin.seen


def test_a_machine_on_which_two_baselines_are_far_apart_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.results.machine_floor", lambda: 0.01)
    noise = Noise(tmp_path / "noise.json")
    first = [np.full(5, 2.0) + i / 1000 for i in range(6)]
    noise.measure(SimpleNamespace(key="busy"), [1.4 * block for block in first], first)
    noise.measure(SimpleNamespace(key="quiet"), [1.03 * block for block in first], first)
    assert noise.of(SimpleNamespace(key="quiet")).floor == pytest.approx(0.03)  # its own, not the largest
    twin = noise.of(SimpleNamespace(key="unknown"))
    assert twin.busy and twin.floor == pytest.approx(0.4) and twin.ratio is None
    found = columns(40.0, row_ms=40.0, noise=twin)
    assert found["verdict"] == "undecided" and "40% apart (A-A)" in found["notes"]["verdict"]


def test_a_noisy_machine_has_the_floor_that_was_measured_there(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.results.machine_floor", lambda: 0.15)
    twin = Noise(tmp_path / "noise.json").of(SimpleNamespace(key="k"))
    assert twin.floor == 0.15 and not twin.busy
