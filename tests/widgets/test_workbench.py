"""The panel without a browser: run, cancel, run again, errors, closing, and no widget at all when headless."""

from __future__ import annotations

import logging
import time

import pytest
from ipywidgets import Layout, Style
from ipywidgets.widgets import widget as registry

from workbench.core.errors import ConfigError, RecipeError, StudyError, TaskError
from workbench.engine.backends.base import Availability
from workbench.widgets import panel as panel_module, panel_job, panel_view
from workbench.widgets.panel import Workbench

CHART = panel_view.chart_png
ENGINES = [
    Availability("torch-eager", True, "2.13.0"),
    Availability("onnxruntime", True, "1.23.0"),
    Availability("openvino", False, None, "openvino is not installed", "pip install openvino"),
]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, fakes) -> None:
    monkeypatch.setattr(panel_job, "TICK_S", 0.02)
    monkeypatch.setattr(panel_module, "default_recipes", lambda budget_s: fakes.RECIPES)
    monkeypatch.setattr(panel_module, "backend_status", lambda names: ENGINES)
    monkeypatch.setattr(panel_view, "chart_png", lambda rows, size, limit: f"{size} {len(rows)} {limit}".encode())


@pytest.fixture
def open_panel(tiny_task, fakes):
    """Return a function that opens a panel over a fake study, and close all of them at the end."""
    panels = []

    def make(**options) -> Workbench:
        panels.append(Workbench(tiny_task, study=fakes.FakeStudy(**options)))
        panels[-1].view.settings.control("batch_sizes").value = "1, 32"
        return panels[-1]

    yield make
    for panel in panels:
        panel.close()


def click(button) -> None:
    assert not button.disabled
    button.click()


def go(panel: Workbench) -> None:
    panel.start()
    assert panel.wait(30)


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("That did not come about.")
        time.sleep(0.01)


def finished(panel: Workbench) -> int:
    return sum(row["state"] == "complete" for row in panel.study.rows())


def test_run_shows_answer_chart_table_and_code(open_panel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_view, "chart_png", CHART)
    panel = open_panel()
    assert panel.state == "ready"
    click(panel.view.run)
    assert panel.wait(30)
    results = panel.view.results
    assert panel.error is None
    assert panel.state == "finished"
    assert "Finished." in results.state.value
    assert "12 of 12 trials finished" in results.state.value
    assert results.bar.value == 1.0
    assert "Recommended: chain on ONNX Runtime, batch size 32." in results.answer.value
    assert bytes(results.chart.value).startswith(b"\x89PNG")
    assert results.table.value.count("★ recommended") == 1
    assert "wb.Quantize()" in results.code.value
    assert "onnxruntime" in results.code.value
    assert not panel.view.run.disabled
    assert panel.view.cancel.disabled


@pytest.mark.cpu_limit(5)
def test_the_default_plan_reaches_the_study_until_recipes_are_chosen(open_panel) -> None:
    panel = open_panel()
    go(panel)
    assert panel.study.calls[0]["recipes"] is None
    assert "default plan" in panel.view.plan_note.value.lower()
    panel.view.recipes.tick("distill", False)
    assert "recipes" in panel.view.plan_note.value


def test_what_is_chosen_reaches_the_study(open_panel) -> None:
    panel = open_panel()
    panel.view.recipes.tick("distill", False)
    panel.view.engines.boxes["torch-eager"].value = False
    for name, value in {"batch_sizes": "4", "threads": "1", "quality_drop": 0.02, "budget_s": 60.0}.items():
        panel.view.settings.control(name).value = value
    go(panel)
    call = panel.study.calls[0]
    assert [recipe.name for recipe in call["recipes"]] == ["float", "chain"]
    assert call["backends"] == ["onnxruntime"]
    assert (call["batch_sizes"], call["threads"]) == ((4,), 1)
    assert (call["quality_drop"], call["budget_s"]) == (0.02, 60.0)


def test_a_run_leaves_the_callback_at_once_and_shows_progress(open_panel) -> None:
    panel = open_panel(gated=True)
    click(panel.view.run)
    assert panel.state == "running"
    until(lambda: "Timing float on torch-eager, batch 1." in panel.view.results.state.value)
    assert panel.view.run.disabled
    panel.study.gate.release(3)
    until(lambda: panel.view.results.bar.value == 3 / 12)
    assert "elapsed" in panel.view.results.time.value
    until(lambda: "finished" in panel.view.results.table.value)
    panel.study.gate.release(100)
    panel.wait(30)
    assert panel.error is None


def test_cancel_keeps_finished_trials_and_run_goes_on(open_panel) -> None:
    panel = open_panel(gated=True)
    click(panel.view.run)
    panel.study.gate.release(4)
    until(lambda: finished(panel) == 4)
    click(panel.view.cancel)
    assert panel.wait(30)
    assert panel.state == "cancelled"
    assert panel.error is None
    assert "Cancelled." in panel.view.results.state.value
    assert "4 of 12 trials finished, 1 cancelled" in panel.view.results.state.value
    assert "finished" in panel.view.results.table.value
    before = len(panel.study.ran)
    click(panel.view.run)
    panel.study.gate.release(100)
    assert panel.wait(30)
    assert panel.state == "finished"
    assert finished(panel) == 12
    assert len(panel.study.ran) - before == 8


def test_what_did_not_fit_into_the_budget_is_said(open_panel) -> None:
    panel = open_panel()
    panel.study.cut = ("Not done: chain on openvino, because it no longer fits into the time budget.",)
    go(panel)
    assert "Not done: chain on openvino" in panel.view.results.time.value
    assert "Time budget used up." in panel.view.results.state.value


def test_a_second_start_while_running_changes_nothing(open_panel) -> None:
    panel = open_panel(gated=True)
    panel.start()
    panel.start()
    panel.study.gate.release(100)
    panel.wait(30)
    assert len(panel.study.calls) == 1
    assert panel.error is None


def test_an_error_of_the_study_is_shown_as_a_sentence_and_kept(open_panel) -> None:
    panel = open_panel(fails=StudyError("The disk <is> full. Free some space."))
    click(panel.view.run)
    panel.wait(30)
    assert isinstance(panel.error, StudyError)
    assert panel.state == "failed"
    shown = panel.view.error_box.view.value
    assert "The disk &lt;is&gt; full. Free some space." in shown
    assert "Traceback" not in shown
    assert "StudyError" in panel.error_details
    assert not panel.view.run.disabled
    panel.study.fails = None
    click(panel.view.run)
    panel.wait(30)
    assert panel.error is None
    assert panel.view.error_box.view.layout.display == "none"


def test_a_callback_that_fails_is_told_and_kept(open_panel) -> None:
    panel = open_panel()
    panel.view.settings.control("budget_s").value = -1.0
    click(panel.view.run)
    assert isinstance(panel.error, ConfigError)
    assert "budget_s must be at least 10" in panel.view.error_box.view.value
    assert panel.state == "ready"


def test_an_unexpected_error_names_its_kind(open_panel) -> None:
    panel = open_panel(fails=ZeroDivisionError("division by zero"))
    panel.start()
    panel.wait(30)
    assert "Unexpected" in panel.view.error_box.view.value
    assert "ZeroDivisionError: division by zero" in panel.view.error_box.view.value
    with pytest.raises(ZeroDivisionError):
        panel.run()


def test_a_chart_that_cannot_be_drawn_does_not_stop_the_run(open_panel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise ValueError("no font")

    panel = open_panel()
    monkeypatch.setattr(panel_view, "chart_png", fail)
    click(panel.view.run)
    panel.wait(30)
    assert finished(panel) == 12
    assert isinstance(panel.error, ValueError)
    assert "no font" in panel.view.error_box.view.value
    assert not panel.view.run.disabled


@pytest.mark.parametrize(("what", "error"), [("recipes", RecipeError), ("engines", StudyError)])
def test_choosing_nothing_is_answered(open_panel, what: str, error: type[Exception]) -> None:
    panel = open_panel()
    if what == "recipes":
        for name in ("float", "distill", "chain"):
            panel.view.recipes.tick(name, False)
    else:
        for box in panel.view.engines.boxes.values():
            box.value = False
    click(panel.view.run)
    assert isinstance(panel.error, error)
    assert "Select at least one" in panel.view.error_box.view.value


def test_failed_trials_show_their_reason(open_panel) -> None:
    panel = open_panel(broken="onnxruntime")
    go(panel)
    assert "6 of 12 trials finished, 6 failed" in panel.view.results.state.value
    assert "onnxruntime could not load &lt;the&gt; model." in panel.view.results.table.value
    assert panel.error is None


def test_the_code_follows_the_chosen_point_and_the_table_the_batch_size(open_panel) -> None:
    panel = open_panel()
    go(panel)
    results = panel.view.results
    _label, key = next(o for o in results.point.options if o[0] == "distill on torch eager, batch size 1")
    results.point.value = key
    assert "batch_size=1" in results.code.value
    assert "wb.Distill" in results.code.value
    assert results.batch.value == 32
    before = results.chart.value
    results.batch.value = 1
    assert results.chart.value != before
    go(panel)
    assert results.point.value == key
    assert results.batch.value == 1


def test_a_recipe_made_from_steps_runs(open_panel) -> None:
    from workbench.compress.steps import Factorize

    panel = open_panel()
    panel.view.steps.ticks[Factorize].value = True
    panel.view.steps.forms[Factorize].control("energy").value = 0.8
    click(panel.view.steps.add)
    go(panel)
    assert "low-rank 0.8 energy" in {row["recipe"] for row in panel.study.rows()}


def test_closing_cancels_the_run(open_panel) -> None:
    panel = open_panel(gated=True)
    panel.start()
    until(lambda: panel.study.rows())
    panel.close()
    assert panel.state == "cancelled"
    assert panel.view.box.comm is None
    assert not panel.study.closed


def test_closing_frees_every_widget(tiny_task, fakes) -> None:
    before = set(registry._instances)
    panel = Workbench(tiny_task, study=fakes.FakeStudy())
    panel.view.settings.control("budget_s").value = 60.0
    go(panel)
    assert len(registry._instances) > len(before) + 50
    panel.close()
    left = [widget for key, widget in registry._instances.items() if key not in before]
    assert [widget for widget in left if not isinstance(widget, Style | Layout)] == []


def test_a_new_panel_over_the_same_study_takes_the_old_ones_place(open_panel, tiny_task) -> None:
    panel = open_panel(gated=True)
    panel.start()
    until(lambda: panel.study.rows())
    with Workbench(tiny_task, study=panel.study) as second:
        assert panel.state == "cancelled"
        assert "From an earlier run: 0 of 12 trials finished" in second.view.results.state.value


def test_a_storage_that_cannot_be_opened_is_said_in_the_panel(tiny_task, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(task, *, storage):
        raise StudyError(f"Cannot open {storage}.")

    monkeypatch.setattr(panel_module, "Study", refuse)
    with Workbench(tiny_task, storage="sqlite:////no/where.db") as panel:
        assert "Cannot open sqlite:////no/where.db." in panel.view.error_box.view.value
    with pytest.raises(StudyError):
        Workbench(tiny_task, storage="sqlite:////no/where.db", interactive=False)


def test_a_wrong_task_or_setting_is_refused_at_once(tiny_task) -> None:
    with pytest.raises(TaskError):
        Workbench("digit")
    with pytest.raises(ConfigError, match="Did you mean 'budget_s'"):
        Workbench(tiny_task, budget=60)


def test_given_settings_are_where_the_panel_starts(tiny_task, fakes) -> None:
    with Workbench(tiny_task, study=fakes.FakeStudy(), batch_sizes=[4], budget_s=60, quality_drop=0.02) as panel:
        plan = panel.plan()
    assert (plan["batch_sizes"], plan["budget_s"], plan["quality_drop"]) == ((4,), 60.0, 0.02)
    assert panel.view.settings.control("batch_sizes").value == "4"


@pytest.mark.slow
def test_headless_builds_no_widget_and_returns_figures(tiny_task, fakes, caplog: pytest.LogCaptureFixture) -> None:
    before = set(registry._instances)
    with caplog.at_level(logging.INFO, logger="workbench"):
        panel = Workbench(tiny_task, study=fakes.FakeStudy(), interactive=False)
        figures = panel.run(batch_sizes=(1, 32), budget_s=30.0)
    assert set(registry._instances) == before
    assert set(figures) == {"tradeoff", "throughput", "memory", "waterfall"}
    assert all(figure.axes for figure in figures.values())
    assert panel.state == "finished"
    assert panel.error is None
    assert "text/plain" in panel._repr_mimebundle_()
    with pytest.raises(StudyError, match="interactive=False"):
        _ = panel.view


def test_headless_errors_are_raised(tiny_task, fakes) -> None:
    panel = Workbench(tiny_task, study=fakes.FakeStudy(fails=StudyError("no")), interactive=False)
    with pytest.raises(StudyError, match="no"):
        panel.run()
    with pytest.raises(ConfigError):
        panel.run(budget_s=-5.0)


def test_rows_that_differ_in_shape_or_engine_options_are_points_of_their_own(fakes) -> None:
    from workbench.study.results.ranking import best_row
    from workbench.study.results.relative_latency import with_relative_latency
    from workbench.widgets.layout import ErrorBox

    first = fakes.finished(fakes.waiting(fakes.RECIPES[0], "openvino", 32))
    changes = [{}, {"shape": "sequence=64"}, {"engine_json": '{"streams": 2}'}, {"threads": 4}]
    made = [{**first, **change, "trial_key": f"key {i}"} for i, change in enumerate(changes)]
    rows = with_relative_latency(made)
    results = panel_view.ResultsView(ErrorBox(), lambda row: f"code of {row['trial_key']}")
    results.show(rows, best_row(rows), limit=0.01)
    assert sorted(key for _, key in results.point.options) == [row["trial_key"] for row in rows]
    assert len({label for label, _ in results.point.options}) == len(rows)
    for row in rows:
        results.point.value = row["trial_key"]
        assert f"code of {row['trial_key']}" in results.code.value
    drawn = results._drawn
    results.show([{**rows[0], "trial_key": "another"}, *rows[1:]], best_row(rows), limit=0.01)
    assert results._drawn != drawn
