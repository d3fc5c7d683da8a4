"""Tidy data of the charts, checked against plain loops over the same rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from workbench.core.errors import StudyError
from workbench.plots import memory_data, throughput_data, tradeoff_data, waterfall_data
from workbench.plots.charts.study.tidy import pareto_mask
from workbench.study.results.schema import new_row


def brute_front(points: list[tuple[float, float]]) -> list[bool]:
    return [not any((a <= x and b >= y) and (a < x or b > y) for a, b in points) for x, y in points]


def test_pareto_mask_agrees_with_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    points = [(float(a), float(b)) for a, b in rng.integers(0, 12, size=(60, 2))]
    assert pareto_mask([p[0] for p in points], [p[1] for p in points]).tolist() == brute_front(points)


def test_pareto_mask_leaves_unknown_points_out_and_keeps_ties() -> None:
    assert pareto_mask([1, 1, math.nan, 2], [5, 5, 9, 4]).tolist() == [True, True, False, False]


def test_tradeoff_has_one_line_per_recipe_and_backend(rows: list[dict[str, Any]]) -> None:
    frame = tradeoff_data(rows, batch_size=32)
    at = [r for r in rows if r["batch_size"] == 32]
    assert len(frame) == len(at) == 18
    assert frame["latency_ms_rel"].is_monotonic_increasing
    assert frame["latency_ms_rel"].to_numpy() == pytest.approx(frame["latency_ms_p50"].to_numpy(), rel=0.02)
    oracle = {(r["recipe"], r["backend"]): r for r in at}
    expected = brute_front([(r["latency_ms_p50"], r["quality"]) for r in at])
    on_front = {(r["recipe"], r["backend"]) for r, keep in zip(at, expected, strict=True) if keep}
    for _, line in frame.iterrows():
        row = oracle[line["recipe"], line["backend"]]
        assert line["quality"] == row["quality"]
        assert line["quality_low"] == pytest.approx(row["quality"] - 0.003 * (row["recipe"] != "float"))
        assert line["quality_high"] == pytest.approx(row["quality"] + 0.003 * (row["recipe"] != "float"))
        assert line["pareto"] == ((row["recipe"], row["backend"]) in on_front)
    assert frame.loc[frame["recommended"], "recipe"].tolist() == ["prune+distill+qat"]
    assert frame.loc[frame["baseline"], "backend"].tolist() == ["torch-eager"]


def test_the_chart_s_latency_is_the_baseline_s_divided_by_the_speed_up(rows: list[dict[str, Any]]) -> None:
    at = {(r["recipe"], r["backend"]): r for r in rows if r["batch_size"] == 32}
    drifted = at["quantize", "openvino"]
    drifted |= {"latency_ms_p50": 6.0, "speedup": 9.0, "speedup_low": 8.0, "speedup_high": 10.0}
    base = at["float", "torch-eager"]["latency_ms_p50"]
    frame = tradeoff_data(rows, batch_size=32).set_index(["recipe", "backend"])
    line = frame.loc["quantize", "openvino"]
    assert frame.index[0] == ("quantize", "openvino") and line["pareto"] and line["latency_ms_p50"] == 6.0
    found = [line[f"latency_ms_rel{end}"] for end in ("_low", "", "_high")]
    assert found == pytest.approx([base / 10, base / 9, base / 8])


def test_a_variant_is_placed_by_the_baseline_of_its_own_thread_count() -> None:
    common = new_row(
        backend="torch-eager", batch_size=32, state="complete", quality=0.9, quality_drop=0.0, recommended=False
    )
    one = {**common, "recipe": "float", "trial_key": "1", "threads": 1, "baseline": True, "latency_ms_p50": 20.0}
    four = {**one, "trial_key": "4", "threads": 4, "latency_ms_p50": 8.0}
    variant = {**common, "recipe": "v", "trial_key": "v", "threads": 4, "baseline_key": "4", "baseline": False}
    variant |= {"latency_ms_p50": 4.0, "speedup": 2.0}
    for rows in ([one, four, variant], [four, one, variant]):
        frame = tradeoff_data(rows).set_index(["recipe", "threads"])["latency_ms_rel"]
        assert frame.to_dict() == {("v", 4): 4.0, ("float", 4): 8.0, ("float", 1): 20.0}


def test_reference_rows_and_surveys_are_shown_and_never_on_the_front(rows: list[dict[str, Any]]) -> None:
    base = next(r for r in rows if r["baseline"] and r["batch_size"] == 32)
    reference = {**base, "baseline": False, "reference": "as commonly started", "speedup": 30.0, "quality": None}
    survey = {**base, "baseline": False, "recipe": "quick", "fidelity": "survey", "speedup": 40.0}
    frame = tradeoff_data([*rows, reference, survey])
    marked = frame[frame["reference"] != ""]
    assert marked["latency_ms_rel"].tolist() == pytest.approx([27.0 / 30]) and marked["quality"].tolist() == [0.9712]
    assert not marked["pareto"].any() and not marked["baseline"].any()
    assert frame.loc[frame["recipe"] == "quick", "pareto"].tolist() == [False]
    assert frame["pareto"].sum() == tradeoff_data(rows)["pareto"].sum()
    assert len(memory_data([*rows, reference])) == len(memory_data(rows))
    assert len(throughput_data([*rows, reference])) == len(throughput_data(rows))
    pd.testing.assert_frame_equal(waterfall_data([reference, *rows]), waterfall_data(rows))


def test_unmeasured_batch_falls_back_to_the_recommended_rows(rows: list[dict[str, Any]]) -> None:
    assert set(tradeoff_data(rows, batch_size=64)["batch_size"]) == {32}
    without = [dict(r, recommended=False) for r in rows if r["batch_size"] != 32]
    assert set(tradeoff_data(without, batch_size=64)["batch_size"]) == {8}


def test_only_complete_rows_count(rows: list[dict[str, Any]]) -> None:
    rows[0]["state"] = "failed"
    rows[3]["latency_ms_p50"] = None
    gone = {(rows[0]["recipe"], rows[0]["backend"]), (rows[3]["recipe"], rows[3]["backend"])}
    frame = tradeoff_data(rows, batch_size=1)
    assert len(frame) == 16
    assert gone.isdisjoint(zip(frame["recipe"], frame["backend"], strict=True))


def test_rows_may_be_a_frame_or_a_study(rows: list[dict[str, Any]]) -> None:
    class Study:
        def rows(self) -> list[dict[str, Any]]:
            return rows

    expected = tradeoff_data(rows)
    pd.testing.assert_frame_equal(tradeoff_data(pd.DataFrame(rows)), expected)
    pd.testing.assert_frame_equal(tradeoff_data(Study()), expected)


@pytest.mark.parametrize("wrong", [3, "rows", {"recipe": "float"}, None])
def test_rows_of_another_kind_are_refused(wrong: Any) -> None:
    with pytest.raises(StudyError, match=type(wrong).__name__):
        tradeoff_data(wrong)


def test_the_baseline_column_wins_over_the_guess(rows: list[dict[str, Any]]) -> None:
    marked = [dict(r, baseline=r["recipe"] == "float" and r["backend"] == "openvino") for r in rows]
    assert set(tradeoff_data(marked).query("baseline")["backend"]) == {"openvino"}


def test_throughput_interval_comes_from_the_latency(rows: list[dict[str, Any]]) -> None:
    frame = throughput_data(rows)
    assert len(frame) == len(rows)
    oracle = {(r["recipe"], r["backend"], r["batch_size"]): r for r in rows}
    for _, line in frame.iterrows():
        row = oracle[line["recipe"], line["backend"], line["batch_size"]]
        assert line["throughput_per_s"] == pytest.approx(row["throughput_per_s"])
        assert line["throughput_low"] == pytest.approx(row["batch_size"] / row["latency_ms_high"] * 1000)
        assert line["throughput_low"] <= line["throughput_per_s"] <= line["throughput_high"]


def test_throughput_says_why_a_line_stands_out(rows: list[dict[str, Any]]) -> None:
    frame = throughput_data(rows)
    words = {(r["recipe"], r["backend"]): r["emphasis"] for _, r in frame.iterrows()}
    assert words["prune+distill+qat", "openvino"] == "recommended"
    assert words["float", "torch-eager"] == "baseline"
    assert words["quantize", "openvino"] == "pareto"
    assert words["prune+distill+qat", "onnxruntime"] == words["float", "onnxruntime"] == "reference"
    assert words["factorize", "torch-eager"] == ""


def test_memory_fronts(rows: list[dict[str, Any]]) -> None:
    frame = memory_data(rows, batch_size=8)
    peak = brute_front(list(zip(frame["peak_rss_mib"], frame["quality"], strict=True)))
    size = brute_front(list(zip(frame["size_mib"], frame["quality"], strict=True)))
    assert frame["pareto"].tolist() == peak
    assert frame["pareto_size"].tolist() == size


def test_waterfall_follows_the_measured_beginnings(rows: list[dict[str, Any]]) -> None:
    frame = waterfall_data(rows)
    assert frame["label"].tolist() == ["original model", "on OpenVINO", "prune 0.5", "distill", "int8 (QAT)"]
    assert frame["kind"].tolist() == ["baseline", "backend", "step", "step", "step"]
    assert frame["latency_ms_rel"].tolist() == pytest.approx([27.0, 17.2, 8.1, 8.0, 4.4])
    assert frame["latency_ms_change"].tolist()[1:] == pytest.approx([-9.8, -9.1, -0.1, -3.6])
    assert frame["quality_validation"].tolist() == [0.974, 0.974, 0.912, 0.969, 0.9675]
    assert frame["quality_change"].tolist()[1:] == pytest.approx([0, -0.062, 0.057, -0.0015])
    assert frame["macs"].tolist() == [42e6, 42e6, 15.5e6, 15.5e6, 15.5e6]
    assert math.isnan(frame["latency_ms_change"][0])


def test_waterfall_gives_a_stage_the_latency_of_the_same_structure_trained(rows: list[dict[str, Any]]) -> None:
    frame = waterfall_data([r for r in rows if r["recipe"] != "prune"])
    assert frame["latency_ms_rel"].tolist() == pytest.approx([27.0, 17.2, 8.0, 8.0, 4.4])
    assert frame["size_mib"][2] == frame["size_mib"][3] != frame["size_mib"][1]
    assert frame["timed_at"].tolist()[2:4] == ["distill", "distill"]


def test_waterfall_counts_a_change_from_the_last_known_stage(rows: list[dict[str, Any]]) -> None:
    frame = waterfall_data([r for r in rows if r["recipe"] not in ("prune", "distill")])
    assert np.isnan(frame["latency_ms_rel"][2:4]).all()
    assert frame["latency_ms_change"][4] == pytest.approx(4.4 - 17.2)
    assert frame["macs_change"][2] == pytest.approx(-26.5e6)


def test_waterfall_takes_a_beginning_only_with_the_same_seed(rows: list[dict[str, Any]]) -> None:
    other = [dict(r, recipe_json='{"seed": 1}') if r["recipe"] == "prune" else r for r in rows]
    assert waterfall_data(other)["timed_at"][2] == "distill"
    assert waterfall_data(rows)["timed_at"][2] == "prune 0.5"


def test_waterfall_without_a_recommended_row_is_empty_unless_a_row_is_named(rows: list[dict[str, Any]]) -> None:
    plain = [dict(r, recommended=False) for r in rows]
    assert waterfall_data(plain).empty
    named = next(
        r for r in plain if r["recipe"] == "quantize" and r["backend"] == "onnxruntime" and r["batch_size"] == 8
    )
    frame = waterfall_data(plain, row=named)
    assert frame["label"].tolist() == ["original model", "on ONNX Runtime", "int8"]
    assert frame["latency_ms_rel"].tolist() == pytest.approx([8.1, 5.2, 3.2])


def test_throughput_has_a_line_for_each_number_of_threads(rows: list[dict[str, Any]]) -> None:
    more = [
        {**row, "threads": 4, "throughput_per_s": 2 * row["throughput_per_s"], "recommended": False} for row in rows
    ]
    frame = throughput_data([*rows, *more])
    assert (frame.groupby(["recipe_id", "backend", "threads"])["batch_size"].nunique() == 3).all()
    assert frame.loc[frame["emphasis"] == "recommended", "threads"].unique().tolist() == [2]
