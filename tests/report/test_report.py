"""Report: the object behind the notebook, over rows that are there already."""

from __future__ import annotations

import base64
import json
from typing import Any

import nbformat
import pytest

from workbench.core.errors import StudyError
from workbench.plots.drawing.figure import Chart
from workbench.present.html import Html
from workbench.report import sections
from workbench.report.notebook import fetches, write_page

Rows = list[dict[str, Any]]
PICTURES = ("tradeoff", "throughput", "memory", "waterfall")
PIECES = (
    *("header", "recommendation", "tradeoff_table", "throughput_table", "memory_table", "waterfall_table"),
    *("trials_table", "coverage", "decisions", "notes", "code", "method"),
)


@pytest.mark.slow
def test_every_piece_shows_something(rows: Rows, make_report: Any) -> None:
    report = make_report(rows)
    for name in PIECES:
        piece = getattr(report, name)()
        assert isinstance(piece, Html) and len(piece.source) > 80, name
        assert piece._repr_html_().startswith('<div class="wbr">')
    for name in PICTURES:
        data, meta = getattr(report, name)()._repr_mimebundle_()
        assert data["image/png"].startswith(b"\x89PNG")
        assert meta["image/png"]["alt"] == data["text/plain"]
        assert 500 < meta["image/png"]["width"] < 1600


@pytest.mark.parametrize("state", ["failed", "waiting"])
def test_every_piece_copes_with_no_result(state: str, rows: Rows, make_report: Any) -> None:
    empty = dict.fromkeys(
        ("quality", "latency_ms_rel", "latency_ms_p50", "throughput_per_s", "speedup", "peak_rss_mib")
    )
    report = make_report([dict(r, **empty, state=state, recommended=False, error="it broke") for r in rows])
    for name in (*PIECES, *PICTURES):
        assert getattr(report, name)() is not None
    assert "no trial has finished" in str(report.recommendation())


def test_only_this_reports_rows_count(rows: Rows, make_report: Any) -> None:
    other = [dict(r, recipe_id="ffff", recipe="from another budget", latency_ms_p50=0.01) for r in rows if r["steps"]]
    report = make_report(rows, backends=["openvino"], batch_sizes=[8, 32])
    report.study.kept = rows + other
    assert {r["recipe_id"] for r in report.rows} == {r["recipe_id"] for r in rows}
    assert {r["batch_size"] for r in report.rows} == {8, 32}
    assert {r["backend"] for r in report.rows} == {"openvino", "torch-eager"}
    assert all(r["baseline"] for r in report.rows if r["backend"] == "torch-eager")
    assert [r["recipe"] for r in report.rows if r["recommended"]] == ["prune+distill+qat"]


def test_the_limit_of_this_report_decides(rows: Rows, make_report: Any) -> None:
    strict = make_report(rows, quality_drop=0.001)
    assert strict.shown["recipe"] == "quantize"
    assert strict.shown["backend"] == "openvino"


def test_rows_without_a_quality_do_not_hide_the_winner(rows: Rows, make_report: Any) -> None:
    unknown = {"quality": None, "quality_drop": None, "recommended": False}
    report = make_report([{**r, **unknown} if r["batch_size"] == 32 else r for r in rows])
    assert report.best.met and report.best.row["batch_size"] == 8


def test_running_passes_the_settings_on_and_writes_the_trials(rows: Rows, make_report: Any, capsys: Any) -> None:
    report = make_report(rows, threads=1, batch_sizes=[32], backends=["openvino"], budget_s=100)
    report.run()
    asked = report.study.asked
    assert asked["threads"] == 1 and asked["batch_sizes"] == (32,) and asked["backends"] == ("openvino",)
    assert asked["budget_s"] == 85 and asked["quality_drop"] == 0.01
    lines = (report.folder / "trials.jsonl").read_text().splitlines()
    assert len(lines) == len(report.rows) == 6 + 1
    assert "Take prune+distill+qat" in capsys.readouterr().err
    assert "chain at batch 1" in str(report.notes())
    report.finish()
    assert report.study.closed


def test_a_failed_study_still_shows_what_was_measured(rows: Rows, make_report: Any) -> None:
    report = make_report(rows, StudyError("The baseline at batch 8 cannot be timed."))
    report.run(progress=lambda _: None)
    assert "The baseline at batch 8 cannot be timed." in str(report.recommendation())
    assert "6.1x" in str(report.recommendation())
    assert (report.folder / "trials.jsonl").exists()
    with pytest.raises(StudyError, match="batch 8"):
        report.finish()


def test_stopping_leaves_the_trials_and_shows_what_was_finished(rows: Rows, make_report: Any) -> None:
    report = make_report(rows, KeyboardInterrupt())
    report.run(progress=lambda _: None)
    assert len((report.folder / "trials.jsonl").read_text().splitlines()) == 54
    shown = str(report.recommendation())
    assert "Stopped by Ctrl-C" in shown and "6.1x" in shown
    with pytest.raises(KeyboardInterrupt):
        report.finish()


def test_the_seed_reaches_the_default_plan(rows: Rows, make_report: Any) -> None:
    report = make_report(rows, seed=7)
    report.run(progress=lambda _: None)
    assert report.study.asked["seed"] == 7 and report.study.asked["recipes"] is None


def test_the_decisions_are_a_table(rows: Rows, make_report: Any) -> None:
    shown = str(make_report(rows).decisions())
    assert shown.count("<tr") == 1 + 2
    assert "8 blocks out" in shown and "1.43x" in shown and "+0.0040" in shown and "not begun" in shown
    assert "no decisions" in sections.decisions((), begun=True)
    assert "time budget" in sections.decisions((), begun=False)


@pytest.mark.slow
def test_the_page_needs_nothing_from_the_network(rows: Rows, make_report: Any, tmp_path: Any) -> None:
    report = make_report(rows)
    book = nbformat.v4.new_notebook()
    for name in (*PIECES, *PICTURES):
        book.cells.append(shown(getattr(report, name)(), name))
    nbformat.write(book, tmp_path / "n.ipynb")
    page = write_page(tmp_path / "n.ipynb", tmp_path / "n.html", title="Trade-off <report>").read_text()
    assert fetches(page) == []
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == len(PICTURES)
    assert "<title>Trade-off &lt;report&gt;</title>" in page
    assert "report.tradeoff()" not in page  # code is not shown


def shown(piece: Html | Chart, name: str) -> Any:
    cell = nbformat.v4.new_code_cell(f"report.{name}()")
    if isinstance(piece, Html):
        data, meta = {"text/html": piece._repr_html_()}, {}
    else:
        data, meta = piece._repr_mimebundle_()
        data["image/png"] = base64.b64encode(data["image/png"]).decode()
    cell.outputs = [nbformat.v4.new_output("execute_result", data, metadata=json.loads(json.dumps(meta)))]
    return cell


def test_reference_rows_stand_under_the_baseline_and_are_never_the_answer(rows: Rows, make_report: Any) -> None:
    base = next(r for r in rows if r["baseline"] and r["batch_size"] == 32)
    common = {**base, "baseline": False, "reference": "as commonly started", "speedup": 40.0, "latency_ms_rel": 0.7}
    compiled = {**common, "reference": "torch.compile", "backend": "torch-compile"}
    report = make_report([common, *rows, compiled], backends=("torch-eager", "openvino"))
    assert report.best.row["recipe"] == "prune+distill+qat" and not any(r["recommended"] for r in (common, compiled))
    assert [r["reference"] for r in report.rows if r.get("reference")] == ["as commonly started", "torch.compile"]
    for source in (str(report.tradeoff_table()), str(report.trials_table())):
        lines = [line.split("<td")[1].split(">")[1].split("<")[0] for line in source.split("<tr class")[1:]]
        place = lines.index("float, as commonly started")
        assert lines[place - 1] == "float" and lines[place + 1] == "float, torch.compile"
        assert 'class="reference"' in source
    assert str(report.throughput_table()).count("reference, not ranked") == 2
