"""Figures and findings in words."""

from __future__ import annotations

from typing import Any

import pytest

from workbench.core.format import numbers
from workbench.core.format.speedup import row_speedup
from workbench.present import findings
from workbench.present.terminal import rows_text
from workbench.study.results.ranking import best_row

Rows = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0, "0"),
        (8.0, "8.00"),
        (27, "27.0"),
        (0.0123456, "0.0123"),
        (-3.14159, "−3.14"),
    ],
)
def test_numbers(value: float | None, written: str) -> None:
    assert numbers.number(value) == written


def test_large_and_tiny_numbers() -> None:
    assert numbers.number(12345.6) == "12,346"
    assert numbers.number(2.1e-6) == "2.10e−06"
    assert [numbers.count(n) for n in (None, 12, 296_000, 42_000_000, 3.1e9)] == ["–", "12", "296 k", "42 M", "3.1 G"]


def test_quality_and_its_drop() -> None:
    assert numbers.quality(0.97123) == "0.9712"
    assert numbers.quality(-312.5) == "−312.50"
    assert numbers.drop(0.006) == "+0.0060"
    assert numbers.drop(-0.0004) == "−0.0004"
    assert numbers.quality_interval(0.0, 0.0) == numbers.quality_interval(None, 1.0) == ""


def test_headline_of_a_recommended_row(rows: Rows) -> None:
    best = best_row(rows, quality_drop=0.01)
    speedup = "6.1x speedup (95 % CI 5.8-6.4)"
    assert findings.headline(best) == f"Take prune+distill+qat on OpenVINO: {speedup}, quality drop 0.0060 (to 0.9652)."


def test_headline_where_nothing_met_the_goal(rows: Rows) -> None:
    hard = [dict(r, quality_drop=r["quality_drop"] + 0.5) for r in rows if not r["baseline"]]
    assert findings.headline(best_row(hard, quality_drop=0.01)).startswith("Nothing met the goal. The closest miss is")


def test_headline_where_the_baseline_is_best(rows: Rows) -> None:
    alone = [r for r in rows if r["baseline"]]
    assert findings.headline(best_row(alone, quality_drop=0.01)).startswith("Keep the baseline")


def test_headline_without_any_finished_trial(rows: Rows) -> None:
    waiting = [dict(r, state="waiting") for r in rows]
    assert "no trial has finished" in findings.headline(best_row(waiting))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(4.1, 4.4, "faster"), (2.0, 9.0, "faster"), (0.9, 9.0, "undecided"), (0.5, 0.6, "slower")],
)
def test_the_headline_has_the_one_form_of_a_speedup(rows: Rows, low: float, high: float, verdict: str) -> None:
    row = next(r for r in rows if r["recommended"])
    row.update(speedup=(low * high) ** 0.5, speedup_low=low, speedup_high=high, verdict=verdict)
    best = best_row([row])
    form = str(row_speedup(row))
    assert form in findings.headline(best) and form in best.reason and form in rows_text(rows, best)


def test_quality_in_words() -> None:
    assert findings.quality_change({"quality": 0.95, "quality_drop": 0.02}) == "quality drop 0.0200 (to 0.9500)"
    assert findings.quality_change({"quality": 0.95, "quality_drop": -0.01}) == "quality gain 0.0100 (to 0.9500)"
    assert findings.quality_change({"quality": 0.95, "quality_drop": 0.0}) == "same quality (0.9500)"


def test_a_reference_is_named_in_the_notes(rows: Rows) -> None:
    (found,) = findings.notes_by_reason([{**rows[0], "reference": "as commonly started"}])
    assert found[2] == ["float, as commonly started on torch eager, batch 1"]


def test_caveats_name_what_weakens_the_answer(rows: Rows) -> None:
    rows[0]["state"] = "waiting"
    for row in rows:
        row.update(candidates=18, verdict="undecided", speedup_low=0.9)
    said = " ".join(findings.caveats(best_row(rows, quality_drop=0.01), rows))
    assert "18 combinations" in said
    assert "contains 1" in said
    assert "1 of 54 planned trials were not run" in said


def test_an_interval_away_from_one_is_not_said_to_contain_it(rows: Rows) -> None:
    for row in rows:
        row.update(verdict="undecided", speedup_low=2.4, speedup_high=2.6)
    assert "contains 1" not in " ".join(findings.caveats(best_row(rows, quality_drop=0.01), rows))


def test_equal_reasons_are_told_once(rows: Rows) -> None:
    rows[0].update(state="failed", error="\n  ExportError: no such operator\n  more")
    found = findings.notes_by_reason(rows)
    assert found[0] == ("failed", "ExportError: no such operator", ["float on torch eager, batch 1"])
    column, reason, where = found[1]
    assert (column, reason, len(where)) == ("latency_ms_p99", "needs 368 samples, 120 were taken", 54)


def test_a_terminal_gets_the_answer_and_a_line_per_trial(rows: Rows) -> None:
    lines = rows_text(rows, best_row(rows, quality_drop=0.01)).splitlines()
    assert lines[0].startswith("Take prune+distill+qat on OpenVINO")
    assert len(lines) == 2 + 1 + 1 + 54
    starred = [line for line in lines if line.startswith("*")]
    assert len(starred) == 1 and "6.1x 5.8-6.4" in starred[0]
