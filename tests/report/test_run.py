"""The whole report on a tiny task: what it leaves, what it refuses, and what it says where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from paths import SUPPORT

from workbench.core.errors import ConfigError, TaskError, WorkbenchError
from workbench.present.files import read_trials
from workbench.report.notebook import fetches
from workbench.report.run import ReportResult, run_report
from workbench.tasks.task import Task

SHORT = SUPPORT / "short.py"
SMALL: dict[str, Any] = {"budget_s": 590, "batch_sizes": [4], "backends": ["onnxruntime"], "threads": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ReportResult, str]]:
    """Run one small report for all the tests of this file."""
    lines: list[str] = []
    folder = tmp_path_factory.mktemp("report") / "out put"
    yield run_report(f"{SHORT}:short", output=folder, parameters=SMALL, progress=lines.append), "".join(lines)


@pytest.mark.slow
def test_a_report_leaves_a_page_a_notebook_and_trials(done: tuple[ReportResult, str]) -> None:
    result, _ = done
    assert result.ok, result.reason
    assert (result.reason, result.stopped) == ("", False)
    kept = {path.name for path in result.html.parent.iterdir()}
    assert {"report.html", "report.ipynb", "trials.jsonl", "study.db"} <= kept
    assert not [name for name in kept if name.startswith(".")]


@pytest.mark.slow
def test_the_trials_are_those_asked_for(done: tuple[ReportResult, str]) -> None:
    rows = read_trials(done[0].trials)
    assert {(r["recipe"], r["backend"]) for r in rows} == {
        ("float", "torch-eager"),
        ("float", "onnxruntime"),
        ("prune", "onnxruntime"),
    }
    assert {r["state"] for r in rows} == {"complete"}, [r["error"] for r in rows]
    assert {(r["batch_size"], r["threads"]) for r in rows} == {(4, 1)}
    assert sum(r["recommended"] for r in rows) <= 1
    assert [r["reference"] for r in rows if r["reference"] is not None] == ["as commonly started"]
    pruned = next(r for r in rows if r["recipe"] == "prune")
    assert 0 < pruned["macs"] < rows[0]["macs"]


@pytest.mark.slow
def test_the_page_is_whole_and_needs_no_network(done: tuple[ReportResult, str]) -> None:
    page = done[0].html.read_text()
    assert fetches(page) == [] and "<script" not in page
    assert page.count("data:image/png;base64,") == 5  # four charts of the trials, and the resources of the run
    order = [
        "Recommendation",
        "Latency and quality",
        "Throughput",
        "Memory and",
        "Gain and cost",
        "All trials",
        "Layers changed",
    ]
    order += ["Skipped and failed trials", "Code of the recommended", "Method"]
    places = [page.index(words, page.index("<main>")) for words in order]
    assert places == sorted(places)
    assert "incomplete" not in page and "report.run()" not in page


@pytest.mark.slow
def test_the_notebook_is_executed_with_the_parameters(done: tuple[ReportResult, str]) -> None:
    book = nbformat.read(done[0].notebook, as_version=4)
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")
    injected = next(cell for cell in book.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "batch_sizes = [4]" in injected.source


@pytest.mark.slow
def test_progress_comes_as_lines(done: tuple[ReportResult, str]) -> None:
    said = done[1]
    assert "at most 590 s" in said and "prune" in said and " s] " in said
    assert "WARNING" not in said


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"budgets": 3}, "Did you mean 'budget_s'"),
        ({"budget_s": "soon"}, "a whole number"),
        ({"budget_s": 3}, "at least 30"),
        ({"backends": ["tensorflow"]}, "Unknown backend"),
        ({"task": "digits"}, "set by the report"),
    ],
)
def test_wrong_parameters_are_refused_before_any_work(parameters: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        run_report("no/such/file.py:task", output=tmp_path / "out", parameters=parameters)
    assert not (tmp_path / "out").exists()


def test_a_task_that_cannot_be_found_or_used_is_refused(tmp_path: Path, tiny_task: Task) -> None:
    with pytest.raises(TaskError, match="does not exist"):
        run_report(str(tmp_path / "none.py:task"), output=tmp_path)
    with pytest.raises(TaskError, match="digits"):
        run_report("digit", output=tmp_path)
    tiny_task.reference = None
    with pytest.raises(ConfigError, match="Put the function that makes it into a file"):
        run_report(tiny_task, output=tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkbenchError, match="Choose another folder"):
        run_report("digits", output=tmp_path / "file" / "out")


@pytest.mark.slow
def test_a_failing_notebook_says_where_and_why_and_leaves_a_page(tmp_path: Path) -> None:
    result = run_report(f"{SHORT}:breaking", output=tmp_path, parameters=SMALL, progress=lambda _: None)
    assert not result.ok and not result.stopped
    assert result.reason == "The cell 'report.run()' stopped with ZeroDivisionError: division by zero"
    page = result.html.read_text()
    assert "This report is incomplete." in page and "division by zero" in page
    assert read_trials(result.trials) == []


@pytest.mark.slow
def test_a_notebook_that_dies_leaves_what_was_measured(tmp_path: Path) -> None:
    result = run_report(f"{SHORT}:dying", output=tmp_path, parameters=SMALL, progress=lambda _: None)
    assert not result.ok
    assert "died without" in result.reason
    assert {r["state"] for r in read_trials(result.trials)} == {"complete"}
    assert "This report is incomplete." in result.html.read_text()
    again = run_report(f"{SHORT}:short", output=tmp_path, parameters=SMALL, progress=lambda _: None)
    assert again.ok, again.reason
