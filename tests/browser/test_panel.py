"""The panel in a real JupyterLab: run, cancel, run again, read the answer, and take the code home."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from paths import SUPPORT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "00_quickstart.ipynb"
FIXTURES = SUPPORT
OPEN = 'import workbench as wb\n\ntask = wb.load_task("tiny.py:tiny")'
SHOW = 'panel = wb.Workbench(task, storage="sqlite:///study.db")\npanel'


def open_notebook(page, lab, name: str) -> None:
    """Show a notebook and run all of its cells."""
    page.goto(lab.address(name))
    page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"
    )
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")


@pytest.mark.slow
def test_run_cancel_and_run_again(page, start_lab, write_notebook, shoot) -> None:
    from playwright.sync_api import expect

    write_notebook("panel.ipynb", OPEN, SHOW)
    lab = start_lab()
    shutil.copy(FIXTURES / "tiny.py", lab.root / "tiny.py")
    page.set_viewport_size({"width": 1280, "height": 1800})
    open_notebook(page, lab, "panel.ipynb")
    panel = page.locator(".wb-panel")
    panel.wait_for()
    expect(panel).to_contain_text("Ready.")
    run, cancel = (panel.get_by_role("button", name=name) for name in ("Run", "Cancel"))
    expect(cancel).to_be_disabled()
    shoot(panel, "panel-ready")

    choose(page, panel)
    expect(panel.locator(".wb-results")).to_contain_text("Ready.")
    shoot(panel, "panel-chosen")
    run.click()
    expect(panel).to_contain_text(re.compile(r"Running\."))
    expect(panel).to_contain_text(re.compile(r"\d:\d\d elapsed"))
    expect(run).to_be_disabled()
    finished = panel.locator(".wb-table tr", has=page.get_by_role("cell", name="finished", exact=True))
    expect(finished).not_to_have_count(0, timeout=200_000)
    shoot(panel, "panel-running")
    cancel.click()
    expect(panel).to_contain_text("Cancelled.", timeout=30_000)
    before = states(lab)
    assert before.count("complete") >= 1
    assert before.count("complete") < len(before)
    assert "running" not in before
    shoot(panel, "panel-cancelled")

    run.click()
    expect(panel).to_contain_text("Finished.", timeout=200_000)
    after = states(lab)
    assert after.count("complete") == len(after)
    assert len(after) == len(before)
    expect(panel.locator(".wb-answer")).to_contain_text("Recommended:")
    expect(panel.locator(".wb-table .mark")).to_have_count(1)
    chart = panel.locator(".wb-results img")
    expect(chart).to_be_visible()
    assert chart.evaluate("image => image.naturalWidth") > 400
    shoot(panel, "panel-finished")
    checks = lab.ask(
        "shown = panel.view.results",
        ["panel.error", "panel.state", "bytes(shown.chart.value[:4])", "panel.study.best().met"],
    )
    assert list(checks.values()) == ["None", "'finished'", repr(b"\x89PNG"), "True"]
    code = panel.locator(".wb-code").inner_text()
    assert "wb.Recipe(" in code
    answer = lab.ask(f"exec({code!r})", ["tuple(outcome.result.shape)", "engine.backend"])
    assert answer["tuple(outcome.result.shape)"] == "(8, 4)"
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count()


def choose(page, panel) -> None:
    """Leave the float model and a recipe of our own, on two engines, at one batch size."""
    for box in panel.get_by_role("checkbox").all():
        name = box.locator("xpath=..").inner_text().strip()
        if name != "float" and not re.match("torch|ONNX|OpenVINO", name) and box.is_visible():
            box.uncheck()
    panel.locator("label", has_text="OpenVINO").get_by_role("checkbox").uncheck()
    panel.get_by_text("Make a recipe from steps").click()
    panel.locator("label", has_text=re.compile("^Prune(?!Depth)")).get_by_role("checkbox").check()
    panel.get_by_label("ratio").locator("visible=true").first.fill("1.5")
    page.keyboard.press("Tab")
    panel.get_by_text("Prune.ratio must be above 0 and below 1, got 1.5.").wait_for()
    panel.get_by_label("ratio").locator("visible=true").first.fill("0.25")
    page.keyboard.press("Tab")
    panel.get_by_text("Will add: prune 0.25").wait_for()
    panel.get_by_role("button", name="Add recipe").click()
    panel.get_by_text("Make a recipe from steps").click()
    panel.get_by_label("batch sizes").fill("8")
    page.keyboard.press("Tab")
    panel.get_by_label("threads").fill("1")
    page.keyboard.press("Tab")
    panel.get_by_label("budget (s)").fill("300")
    page.keyboard.press("Tab")
    panel.get_by_text("4 trials (2 recipes, 2 engines, 1 batch size) in about 5:00 at most.").wait_for()


def states(lab) -> list[str]:
    """Return the state of every trial, as the kernel has it."""
    answer = lab.ask("import json", ["json.dumps([row['state'] for row in panel.study.rows()])"])
    return re.findall(r"\w+", next(iter(answer.values())))


def test_the_quickstart_notebook_opens_and_runs(page, start_lab, shoot) -> None:
    from playwright.sync_api import expect

    lab = start_lab()
    shutil.copy(QUICKSTART, lab.root / "quickstart.ipynb")
    page.set_viewport_size({"width": 1280, "height": 1600})
    open_notebook(page, lab, "quickstart.ipynb")
    panel = page.locator(".wb-panel")
    expect(panel).to_contain_text("Ready.")
    expect(panel).to_contain_text("in about 3:20 at most")
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].every(p => /\\d/.test(p.textContent))"
    )
    assert not page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count()
    assert lab.ask("", ["panel.error", "panel.state"]) == {"panel.error": "None", "panel.state": "'ready'"}
    shoot(page, "quickstart")
