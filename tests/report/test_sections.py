"""Tables and pieces of the page: well formed, nothing unescaped, reasons where a figure is missing."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from workbench.core.machine import this_machine
from workbench.plots import waterfall_data
from workbench.present import tables
from workbench.report import sections
from workbench.report.settings import ReportSettings
from workbench.study.results.ranking import best_row

Rows = list[dict[str, Any]]
VOID = {"img", "br", "meta", "link", "hr"}


class Checker(HTMLParser):
    """Collects text and checks that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(source: str) -> Checker:
    checker = Checker()
    checker.feed(source)
    checker.close()
    assert checker.open == []
    return checker


def test_a_table_has_a_line_per_row_and_marks_the_recommended_one(rows: Rows) -> None:
    page = parsed(tables.table(tables.TRIALS, rows))
    lines = [attrs.get("class") for tag, attrs in page.tags if tag == "tr"]
    assert len(lines) == 55
    assert lines.count("recommended") == 1
    assert page.words.count("★ recommended") == 1
    assert sum(tag == "th" for tag, _ in page.tags) == len(tables.TRIALS)


def test_a_missing_figure_carries_its_reason(rows: Rows) -> None:
    page = parsed(tables.table([tables.P99], rows[:1]))
    assert ("td", {"title": "needs 368 samples, 120 were taken"}) in page.tags
    assert "–" in page.words


def test_names_are_escaped(rows: Rows) -> None:
    rows[0].update(recipe="<script>alert(1)</script>", error="<b>", state="failed")
    for source in (tables.table(tables.TRIALS, rows), sections.notes(rows, ["<i>cut"]), sections.coverage(rows)):
        parsed(source)
        assert "<script" not in source and "<i>cut" not in source


def test_an_empty_table_says_so() -> None:
    assert "No finished trials" in tables.table(tables.TRIALS, [])


def cells(source: str, column: int) -> list[str]:
    """Return the text of a column, without what stands beside the figure."""
    page = source.split("<tbody>")[1].split("</tr>")[:-1]
    return [line.split("<td")[column + 1].split(">", 1)[1].split("<")[0] for line in page]


def test_chart_table_and_tile_show_one_latency(rows: Rows) -> None:
    from workbench.core.format.numbers import number
    from workbench.plots import tradeoff_data

    row = next(r for r in rows if r["recommended"])
    drifted = {**row, "latency_ms_p50": 9.9}  # timed in a slow moment, and so was the baseline beside it
    chart = tradeoff_data(rows).set_index(["recipe", "backend"])["latency_ms_rel"]
    assert row["latency_ms_rel"] == chart[row["recipe"], row["backend"]]
    figure = number(row["latency_ms_rel"])
    assert cells(tables.table([tables.RECIPE, tables.LATENCY], [drifted]), 1) == [figure]
    assert cells(tables.table([tables.RECIPE, tables.TIMED], [drifted]), 1) == ["9.90"]
    assert f"<strong>{figure} ms</strong>" in sections.recommendation(best_row([drifted]), None, [drifted])


def test_references_and_surveys_are_labeled_in_tables(rows: Rows) -> None:
    started = {**rows[2], "baseline": False, "reference": "as commonly started"}
    survey = {**rows[4], "fidelity": "survey", "estimator": "low quantile"}
    source = tables.table(tables.TRIALS, [started, survey])
    text = " ".join(parsed(source).words)
    assert "float, as commonly started" in text and "reference, not ranked" in text
    assert f"{survey['recipe']} (survey)" in text and "never recommended" in text
    assert 'class="reference"' in source and 'title="estimator: low quantile"' in source


def test_what_a_process_does_to_a_call_stands_in_the_full_table(rows: Rows) -> None:
    row = {**rows[0], "page_faults_per_call": 8500.0, "context_switches_per_call": 0.25, "allocator": "glibc, steady"}
    words = parsed(tables.table(tables.TRIALS, [row])).words
    assert {"8,500", "0.250", "glibc, steady", "page faults", "context switches"} <= set(words)


def test_throughput_has_a_column_per_batch_size(rows: Rows) -> None:
    rows = [r for r in rows if (r["recipe"], r["backend"], r["batch_size"]) != ("prune", "openvino", 8)]
    page = parsed(tables.throughput_table(rows))
    text = " ".join(page.words)
    assert all(f"batch {size}" in text for size in (1, 8, 32))
    assert sum(tag == "tr" for tag, _ in page.tags) == 1 + 18
    assert page.words.count("–") == 1


def test_waterfall_table_says_what_did_not_change(rows: Rows) -> None:
    page = parsed(tables.waterfall_table(waterfall_data(rows)))
    text = " ".join(page.words)
    assert "−9.80" in text and "+0.0570" in text and "no change" in text


def test_the_box_has_the_figures_beside_the_originals(rows: Rows) -> None:
    baseline = next(r for r in rows if r["baseline"] and r["batch_size"] == 32)
    source = sections.recommendation(best_row(rows, quality_drop=0.01), baseline, rows)
    text = " ".join(parsed(source).words)
    assert 'class="answer good"' in source
    for words in ("6.1x", "4.40 ms", "baseline: 27.0 ms", "+0.0060", "0.9652, baseline: 0.9712", "159 MiB"):
        assert words in text


def test_the_box_says_plainly_that_nothing_met_the_goal(rows: Rows) -> None:
    hard = [dict(r, quality_drop=r["quality_drop"] + 0.5, recommended=False) for r in rows if not r["baseline"]]
    source = sections.recommendation(best_row(hard, quality_drop=0.01), None, hard)
    assert 'class="answer miss"' in source
    assert "Nothing met the goal" in source


def test_the_box_without_any_result() -> None:
    text = " ".join(parsed(sections.recommendation(best_row([]), None, [])).words)
    assert "no trial has finished" in text


def test_header_names_task_machine_date_and_versions() -> None:
    page = parsed(sections.header({"from": "a.py:b"}, this_machine(), ReportSettings(), name="digits"))
    text = " ".join(page.words)
    for words in (
        "Trade-off report",
        "digits",
        "a.py:b",
        "torch 2",
        "openvino 20",
        "200 s in total",
        this_machine().cpu_model,
    ):
        assert words in text
    assert any(tag == "time" for tag, _ in page.tags)


def test_coverage_counts_layers_once_per_recipe(rows: Rows) -> None:
    page = parsed(sections.coverage(rows))
    text = " ".join(page.words)
    assert sum(tag == "details" for tag, _ in page.tags) == 5
    assert "2 of 3 layers changed" in text and "its output dimension is the task's" in text
    assert "validation quality 0.9740 → 0.9120" in text


def test_notes_list_what_was_cut_what_failed_and_why_figures_are_missing(rows: Rows) -> None:
    rows[5].update(state="failed", error="TrialFailed: killed")
    text = " ".join(parsed(sections.notes(rows, ["chain at batch 1"])).words)
    for words in ("Skipped trials", "chain at batch 1", "TrialFailed: killed", "latency_ms_p99", "and 52 more"):
        assert words in text


def test_notes_of_a_study_without_any() -> None:
    assert "All planned trials ran" in sections.notes([], [])


@pytest.mark.parametrize("words", ["alternate in random order", "first 50 ms", "95 %", "own metric", "baseline"])
def test_the_method_is_told(words: str) -> None:
    assert words in sections.method()
