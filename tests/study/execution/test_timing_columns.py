"""Columns of a row from blocks of known length, without a clock."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from workbench.study.execution.timing_columns import (
    FOOTPRINT,
    NoiseFloor,
    NoiseFloors,
    baseline_columns,
    cold_columns,
    footprint_columns,
    save_samples,
    shape_notes,
    size_columns,
    timed_columns,
)
from workbench.study.results.quality_limits import leakage_warning
from workbench.study.results.schema import COLUMNS
from workbench.timing.blocks import Block, Usage
from workbench.timing.pace import LOWEST, UNDISTURBED


def arm_of(**opened):
    cold = {"load_s": 0.1, "compile_s": None, "first_call_s": 0.01}
    return SimpleNamespace(
        trial=SimpleNamespace(batch_size=4, backend="onnxruntime"),
        opened={"cold": cold, "max_abs_diff": 0.0, "notes": [], "steady": True, **opened},
        figures={"peak_rss_mib": (10.0, None)},
    )


def columns(base_ms: float, *, noise=NoiseFloor(), waited=0.0, usage=None, timed=None, **opened):  # noqa: B008 - frozen
    blocks = [Block(np.full(5, 2.0) + i / 1000, usage=usage) for i in range(6)]
    calls = [np.full(5, base_ms) + i / 1000 for i in range(6)]
    base = [Block(ms, waited * ms) for ms in calls]
    return timed_columns(arm_of(**opened), blocks, base, noise, timed=timed)


def test_a_model_that_knows_the_validation_split_is_told_of():
    words = leakage_warning(0.99, 0.92, samples=(2000, 1000))
    assert "0.99 on the validation split and 0.92 on the evaluation split" in words
    assert "validation=(inputs, targets)" in words
    # two proportions, pooled: 3 standard errors of 500 and 500 samples around 0.96 are 18.6 samples
    assert pytest.approx(18.6, abs=0.02) == 500 * 3 * (0.96 * 0.04 * (2 / 500)) ** 0.5
    assert leakage_warning(489 / 500, 471 / 500, samples=(500, 500)) is None
    assert leakage_warning(490 / 500, 470 / 500, samples=(500, 500)) is not None
    no_shares = [(0.9812, 0.9), (31.0, 0.9), (0.9, -0.2), (float("nan"), 0.9)]
    for unknown in (*no_shares, (None, 0.9), (0.9, None), (0.8, 0.9), (1.0, 1.0)):
        assert leakage_warning(*unknown, samples=(500, 500)) is None


def test_an_interval_that_excludes_one_decides_whatever_the_machine_did():
    found = columns(12.0, noise=NoiseFloor(floor=0.4))
    assert found["speedup"] == pytest.approx(6.0, rel=0.01)
    assert found["verdict"] == "faster"
    assert 1 < found["speedup_low"] < 6 / 1.35 and found["speedup_high"] > 6 * 1.35
    assert found["estimator"] == UNDISTURBED and "speedup" not in found["notes"]


def test_a_baseline_that_waited_all_the_time_makes_nothing_faster():
    found = columns(2.4, waited=1.0)
    assert found["speedup"] > 1.1 and found["speedup_low"] < 1
    assert found["verdict"] == "undecided"
    assert found["estimator"] == LOWEST and "speedup" in found["notes"]


def test_many_page_faults_are_a_note_and_a_figure():
    found = columns(12.0, usage=Usage(faults=5 * 900, switches=5 * 3))
    assert (found["page_faults_per_call"], found["context_switches_per_call"]) == (900.0, 3.0)
    assert "page_faults_per_call" in found["notes"]
    few = columns(12.0, usage=Usage(faults=5, switches=0))
    assert few["page_faults_per_call"] == 1.0 and "page_faults_per_call" not in few["notes"]
    unknown = columns(12.0)
    assert unknown["page_faults_per_call"] is None and "page_faults_per_call" in unknown["notes"]


def test_the_cold_start_is_told_in_parts_that_add_up():
    opened = {"cold": {"load_s": 0.5, "compile_s": 0.4, "first_call_s": 0.02}}
    notes: dict[str, str] = {}
    found = cold_columns(SimpleNamespace(opened=opened, trial=SimpleNamespace(backend="openvino")), notes)
    assert found == pytest.approx({"load_ms": 100.0, "compile_ms": 400.0, "first_call_ms": 20.0}) and notes == {}
    opened["cold"] |= {"compile_s": None, "first_call_s": None}
    found = cold_columns(SimpleNamespace(opened=opened, trial=SimpleNamespace(backend="onnxruntime")), notes)
    assert found == {"load_ms": 500.0, "compile_ms": None, "first_call_ms": None}
    assert "Part of load_ms" in notes["compile_ms"] and "first_call_ms" in notes


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
    ("machine", "apart", "source"),
    [(0.01, 1.04, "two baseline processes"), (0.05, 1.03, "this machine")],
)
def test_a_floor_above_the_usual_says_where_it_comes_from(tmp_path, monkeypatch, machine, apart, source):
    monkeypatch.setattr("workbench.study.execution.timing_columns.machine_floor", lambda: machine)
    noise = NoiseFloors(tmp_path / "noise.json")
    noise.measure(SimpleNamespace(key="k"), baseline_blocks(apart), baseline_blocks())
    replica = noise.of(SimpleNamespace(key="k"))
    assert replica.floor == pytest.approx(max(machine, apart - 1), abs=1e-3) and source in replica.source


def baseline_blocks(apart: float = 1.0) -> list[Block]:
    return [Block.of(apart * (np.full(5, 2.0) + i / 1000)) for i in range(6)]


def test_two_baselines_that_are_far_apart_widen_every_interval_and_abolish_no_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.execution.timing_columns.machine_floor", lambda: 0.01)
    noise = NoiseFloors(tmp_path / "noise.json")
    noise.measure(SimpleNamespace(key="busy"), baseline_blocks(1.4), baseline_blocks())
    noise.measure(SimpleNamespace(key="quiet"), baseline_blocks(1.03), baseline_blocks())
    assert noise.of(SimpleNamespace(key="quiet")).floor == pytest.approx(0.03, abs=0.001)  # its own, not the largest
    replica = noise.of(SimpleNamespace(key="unknown"))
    assert replica.floor == pytest.approx(0.4, abs=0.001) and replica.ratio is None
    assert columns(40.0, noise=replica)["verdict"] == "faster"
    assert columns(2.5, noise=replica)["verdict"] == "undecided"


def test_the_error_of_the_timing_itself_is_no_distance_between_two_baselines(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.execution.timing_columns.machine_floor", lambda: 0.01)
    noise, rng = NoiseFloors(tmp_path / "noise.json"), np.random.default_rng(0)
    noisy = [[Block.of(2.0 * rng.lognormal(0.0, 0.3, 5)) for _ in range(6)] for _ in range(2)]
    noise.measure(SimpleNamespace(key="k"), *noisy)
    replica = noise.of(SimpleNamespace(key="k"))
    assert replica.high / replica.low > 1.2 and replica.floor < 0.1


def test_a_noisy_machine_has_the_floor_that_was_measured_there(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.execution.timing_columns.machine_floor", lambda: 0.15)
    replica = NoiseFloors(tmp_path / "noise.json").of(SimpleNamespace(key="k"))
    assert replica.floor == 0.15


def test_latency_and_throughput_are_those_of_the_blocks():
    row = columns(2.0)
    assert row["latency_ms_p50"] == pytest.approx(2.0025) and row["throughput_per_s"] == pytest.approx(4e3 / 2.0025)
    assert row["latency_ms_low"] <= row["latency_ms_p50"] <= row["latency_ms_high"]
    assert "latency_ms_p99" in row["notes"] and "latency_ms_low" not in row["notes"]  # 30 calls do not resolve p99
    assert row["conditions"] is None and "conditions" in row["notes"]
    assert row["allocator"] is None and columns(2.0, allocator="glibc")["allocator"] == "glibc"


def test_conditions_and_what_disturbed_them_are_columns():
    quiet = columns(2.0, timed=SimpleNamespace(conditions="2.0 s, idle", notes=()))
    assert quiet["conditions"] == "2.0 s, idle" and "conditions" not in quiet["notes"]
    busy = columns(2.0, timed=SimpleNamespace(conditions="2.0 s, busy", notes=("One.", "Two.")))
    assert busy["notes"]["conditions"] == "One. Two."


def test_what_an_engine_notes_and_an_unsteady_warm_up_reach_the_row():
    row = columns(2.0, steady=False, notes=["First.", "Second."], max_abs_diff=float("nan"))
    assert row["notes"]["backend"] == "First. Second." and "latency_ms_p50" in row["notes"]
    assert row["max_abs_diff"] is None and "nan" in row["notes"]["max_abs_diff"]
    assert columns(2.0, max_abs_diff=0.25)["max_abs_diff"] == 0.25
    assert "max_abs_diff" in columns(2.0, max_abs_diff=None)["notes"]


def test_the_baseline_has_a_speedup_of_one_with_the_interval_of_the_aa_test():
    blocks = baseline_blocks()
    alone = baseline_columns(arm_of(), blocks, NoiseFloor())
    assert (alone["speedup"], alone["speedup_low"], alone["speedup_high"], alone["verdict"]) == (
        1.0,
        None,
        None,
        "same",
    )
    assert {"speedup_low", "speedup_high"} <= alone["notes"].keys()
    for low, high, ends in [(0.9, 1.2, (0.9, 1.2)), (1.1, 1.2, (1.0, 1.2)), (0.8, 0.9, (0.8, 1.0))]:
        row = baseline_columns(arm_of(), blocks, NoiseFloor(ratio=1.0, low=low, high=high))
        assert (row["speedup"], row["speedup_low"], row["speedup_high"]) == (1.0, *ends)
        assert "A/A" in row["notes"]["speedup"] and "speedup_low" not in row["notes"]
    assert baseline_columns(arm_of(), blocks, NoiseFloor(ratio=1.0, low=0.9))["speedup_low"] is None


def test_floors_are_those_of_the_file_when_a_study_is_opened_again(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.study.execution.timing_columns.machine_floor", lambda: 0.01)
    first = NoiseFloors(tmp_path / "noise.json")
    rng = np.random.default_rng(1)
    noisy = [[Block.of(pace * rng.lognormal(0.0, 0.1, 5)) for _ in range(9)] for pace in (2.4, 2.0)]
    first.measure(SimpleNamespace(key="k"), *noisy)
    stored = json.loads((tmp_path / "noise.json").read_text())["k"]
    again = NoiseFloors(tmp_path / "noise.json").of(SimpleNamespace(key="k"))
    assert [again.ratio, again.low, again.high] == stored and again.low < again.ratio < again.high
    assert again == first.of(SimpleNamespace(key="k")) and again.low <= again.ratio <= again.high


def test_the_error_of_an_aa_test_is_subtracted_in_squares(tmp_path, monkeypatch):
    """Differences and errors of independent sources add in squares, on the scale of logarithms."""
    monkeypatch.setattr("workbench.study.execution.timing_columns.machine_floor", lambda: 0.0)
    (tmp_path / "noise.json").write_text(json.dumps({"k": [1.5, 1.2, 1.9]}))
    error = (np.log(1.9) - np.log(1.2)) / 2
    wanted = np.exp(np.sqrt(np.log(1.5) ** 2 - error**2)) - 1
    assert NoiseFloors(tmp_path / "noise.json").of(SimpleNamespace(key="k")).floor == pytest.approx(wanted)


def test_raw_samples_are_saved_under_the_hash_of_their_content(tmp_path):
    blocks = [Block(np.array([1.0, 2.0]), np.array([0.5, 0.25])), Block(np.array([3.0]))]
    name = save_samples(tmp_path, blocks, [Block(np.array([4.0]))])
    with np.load(tmp_path / name) as stored:
        assert {key: stored[key].tolist() for key in stored} == {
            "arm_0": [1.0, 2.0],
            "arm_wait_0": [0.5, 0.25],
            "arm_1": [3.0],
            "base_0": [4.0],
        }
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert name == f"{digest[:16]}.npz" == save_samples(tmp_path, blocks, [Block(np.array([4.0]))])


def test_a_size_that_is_not_the_inputs_own_is_noted():
    own = (("x", 1, 28),)
    assert shape_notes(SimpleNamespace(shape=()), own) == shape_notes(SimpleNamespace(shape=own), own) == {}
    notes = shape_notes(SimpleNamespace(shape=(("x", 1, 56),)), own)
    assert notes.keys() == {"macs", "first_call_ms", "shape"} and "repeated" in notes["shape"]


def test_the_size_is_that_of_the_file_that_the_backend_loads(tmp_path):
    (tmp_path / "model.onnx").write_bytes(bytes(2**20))
    (tmp_path / "model.onnx.data").write_bytes(bytes(2**19))
    (tmp_path / "exported.pt2").write_bytes(bytes(2**18))
    onnx = size_columns(tmp_path, "onnxruntime")
    assert onnx["size_mib"] == 1.5 and "model.onnx" in onnx["notes"]["size_mib"]
    assert size_columns(tmp_path, "torch-eager")["size_mib"] == 0.25
    (tmp_path / "weights.safetensors").write_bytes(bytes(2**17))
    assert size_columns(tmp_path, "torch-eager")["size_mib"] == 0.125
    (tmp_path / "model.onnx").unlink()
    none = size_columns(tmp_path, "onnxruntime")
    assert none["size_mib"] is None and none["notes"].keys() == {"size_mib"}


def test_every_figure_is_a_column_and_every_note_a_sentence():
    noisy = NoiseFloor(floor=0.3, source="the A/A test of two baseline processes")
    usage = Usage(faults=5 * 900, switches=0)
    rows = [columns(12.0), columns(2.4, waited=1.0, noise=noisy, usage=usage, steady=False, max_abs_diff=None)]
    rows.append(baseline_columns(arm_of(), baseline_blocks(), NoiseFloor()))
    for row in rows:
        notes = row.pop("notes")
        assert set(row) <= set(COLUMNS) and notes.keys() <= set(COLUMNS)
        assert {name for name, value in row.items() if value is None} <= notes.keys() | {"allocator"}
        for note in notes.values():
            assert not note[0].islower() and note[-1] == "." and any(letter.islower() for letter in note)
    assert rows[1]["noise_floor"] == 0.3
    assert columns(12.0, usage=usage)["notes"].keys() - columns(12.0, usage=Usage(0, 0))["notes"].keys() == {
        "page_faults_per_call"
    }


def test_few_calls_have_no_interval_and_say_why_for_both_ends():
    short = [Block(np.array([2.0])), Block(np.array([2.1]))]
    row = timed_columns(arm_of(), short, short, NoiseFloor())
    assert row["latency_ms_low"] is row["latency_ms_high"] is None
    assert row["notes"]["latency_ms_low"] == row["notes"]["latency_ms_high"] != ""
    assert all(isinstance(note, str) and note for note in row["notes"].values()) and "latency_ms_p90" in row["notes"]
    assert not {"latency_ms_p50", "verdict"} & row["notes"].keys()  # steady unless the engine notes otherwise


def test_a_difference_within_the_noise_floor_is_the_same():
    noisy = columns(2.05, noise=NoiseFloor(floor=0.2))
    assert noisy["verdict"] == "same" and noisy["speedup_low"] < 1 < noisy["speedup_high"]
    assert columns(2.05)["verdict"] != "same"


def test_conditions_of_the_baseline_and_columns_without_an_opened_engine():
    timed = SimpleNamespace(conditions="2.0 s, idle", notes=())
    assert baseline_columns(arm_of(), baseline_blocks(), NoiseFloor(), timed)["conditions"] == "2.0 s, idle"
