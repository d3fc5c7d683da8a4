"""The panel's widgets: controls at the left, results at the right. Independent of jobs."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from workbench.compress.recipe import Recipe
from workbench.plots import figure_png, plot_tradeoff
from workbench.present.findings import Row
from workbench.study.config import PRIMARY_BATCH, QUALITY_DROP
from workbench.study.results.ranking import Recommendation
from workbench.widgets.form import Form
from workbench.widgets.layout import STYLE, ErrorBox, close_tree, html_box
from workbench.widgets.panel_job import RunSettings
from workbench.widgets.pickers import EnginePicker, RecipeList, StepPicker
from workbench.widgets.status_text import plan_sentence, point_facts, point_name, recommendation, table_html

BAR_STYLES = {"failed": "danger", "cancelled": "warning", "finished": "success"}


def chart_png(rows: Sequence[Row], batch_size: int, limit: float) -> bytes:
    """Return the trade-off chart of ``rows`` at one batch size as PNG bytes."""
    return figure_png(plot_tradeoff(rows, batch_size=batch_size, quality_drop=limit), dpi=150)


class ResultsView:
    """Progress, chart, recommendation, table, and the code of an operating point.

    Drawing takes a lock because the job's thread and callbacks of the front end may both draw. The chart is drawn only
    when its rows changed, because drawing disturbs the trials that are being timed.
    """

    def __init__(self, error_box: ErrorBox, make_code: Callable[[Row], str]) -> None:
        self._make_code = make_code
        self._lock = threading.RLock()
        self._rows: list[Row] = []
        self._limit = QUALITY_DROP
        self._quiet = False
        self._picked = False
        self._drawn: Any = None
        self.state = html_box(
            "<b>Ready.</b> Choose on the left, then press Run. Chart and table are updated as trials finish."
        )
        thin = widgets.Layout(width="auto", height="14px", margin="2px 0")
        self.bar = widgets.FloatProgress(min=0, max=1, layout=thin)
        self.time = html_box("", "wb-hint")
        self.answer = html_box("", "wb-answer", hidden=True)
        self.batch = widgets.ToggleButtons(style={"button_width": "52px"})
        self.batch_row = widgets.HBox([html_box("Batch size shown"), self.batch])
        self.batch_row.add_class("wb-batch")
        self.chart = widgets.Image(format="png", layout=widgets.Layout(width="100%", max_width="980px"))
        self.table = html_box("", "wb-table")
        self.point = widgets.Dropdown(description="Code for", layout=widgets.Layout(width="100%", max_width="640px"))
        self.code = html_box("")
        self.facts = html_box("", "wb-hint")
        self.code_section = widgets.VBox([_head("Reproduce a point in Python"), self.point, self.code, self.facts])
        for widget in (self.batch_row, self.chart, self.code_section):
            widget.layout.display = "none"
        self.batch.observe(error_box(self._batch_changed), names="value")
        self.point.observe(error_box(self._point_changed), names="value")
        progress = [self.state, self.bar, self.time, error_box.view]
        self.summary = widgets.VBox([*progress, self.answer, self.batch_row, self.chart])
        self.details = widgets.VBox([_head("Trials"), self.table, self.code_section])
        self.details.layout.display = "none"

    def show_state(self, headline: str, message: str = "", *, fraction: float | None = None, state: str = "") -> None:
        """Show the run's state, with the progress bar at ``fraction``."""
        self.state.value = f"<b>{html.escape(headline)}</b> {html.escape(message)}"
        if fraction is not None:
            self.bar.value = fraction
        self.bar.bar_style = BAR_STYLES.get(state, "")

    def show_notes(self, *lines: str) -> None:
        """Show small lines below the bar: times and skipped trials."""
        self.time.value = "<br>".join(map(html.escape, lines))

    def show(self, rows: Sequence[Row], best: Recommendation, *, limit: float) -> None:
        """Show rows and recommendation: chart, table, and the code of the selected point."""
        with self._lock:
            self._rows, self._limit = list(rows), limit
            finished = [row for row in self._rows if row["state"] == "complete"]
            self.details.layout.display = "" if self._rows else "none"
            headline, text = recommendation(best)
            self.answer.value = f"<b>{html.escape(headline)}</b> {html.escape(text)}"
            self.answer.layout.display = "" if finished else "none"
            self._update_batch_sizes(best)
            self._update_points(finished, best)
            self._draw()
            self.batch_row.layout.display = "" if len(self.batch.options) > 1 else "none"
            self.code_section.layout.display = "" if finished else "none"

    def _update_batch_sizes(self, best: Recommendation) -> None:
        sizes = sorted({row["batch_size"] for row in self._rows})
        if sizes == list(self.batch.options):
            return
        before = self.batch.value
        preferred = best.row["batch_size"] if best.row else PRIMARY_BATCH
        value = before if before in sizes else preferred if preferred in sizes else sizes[-1]
        self._quietly(self.batch, options=sizes, value=value)

    def _update_points(self, finished: list[Row], best: Recommendation) -> None:
        chosen = _key(best.row) if best.row else None
        finished = sorted(finished, key=lambda r: (_key(r) != chosen, -r["batch_size"], r["latency_ms_rel"] or 0))
        threads = len({row["threads"] for row in finished}) > 1
        lead = "recommended: " if best.met else "closest miss: "
        keys = [_key(row) for row in finished]
        names = [(lead if _key(row) == chosen else "") + point_name(row, threads=threads) for row in finished]
        options = list(zip(names, keys, strict=True))
        value = self.point.value if self._picked and self.point.value in keys else keys[0] if keys else None
        if list(self.point.options) != options or self.point.value != value:
            self._quietly(self.point, options=options, value=value)

    def _quietly(self, control: widgets.Widget, **traits: Any) -> None:
        """Set traits without recording a choice of the user."""
        self._quiet = True
        try:
            for name, value in traits.items():
                setattr(control, name, value)
        finally:
            self._quiet = False

    def _draw(self) -> None:
        size = self.batch.value
        self.table.value = table_html(self._rows, batch_size=size)
        finished = [row for row in self._rows if row["state"] == "complete" and row["batch_size"] == size]
        drawn = (size, self._limit, [(_key(row), row["latency_ms_rel"], row["recommended"]) for row in finished])
        if finished and drawn != self._drawn:
            self.chart.value, self._drawn = chart_png(finished, size, self._limit), drawn
        self.chart.layout.display = "" if finished else "none"  # after its bytes: an empty image looks broken
        row = next((row for row in self._rows if _key(row) == self.point.value), None)
        self.code.value = f'<pre class="wb-code">{html.escape(self._make_code(row))}</pre>' if row else ""
        facts = point_facts(row) if row else []
        self.facts.value = "<br>".join(f"{html.escape(name)}: {html.escape(value)}" for name, value in facts)

    def _batch_changed(self, _change: Any) -> None:
        with self._lock:
            if not self._quiet:
                self._draw()

    def _point_changed(self, _change: Any) -> None:
        with self._lock:
            if not self._quiet:
                self._picked = True
                self._draw()


class PanelView:
    """All widgets of a panel. ``on_run``, ``on_cancel`` and ``on_settings`` are called by its buttons and forms."""

    def __init__(
        self,
        title: str,
        *,
        statuses: Sequence[Any],
        presets: Sequence[Recipe],
        settings: RunSettings,
        make_code: Callable[[Row], str],
        on_run: Callable[[], None],
        on_cancel: Callable[[], None],
        on_settings: Callable[[], None],
    ) -> None:
        self.error_box = ErrorBox()
        self.plan_note = html_box("", "wb-hint")
        self.results = ResultsView(self.error_box, make_code)
        self.recipes = RecipeList(presets, on_change=self._show_plan)
        self.steps = StepPicker(self.recipes.add)
        self.steps.add.on_click(self.error_box(lambda _: self.steps.add_recipe()))
        self.engines = EnginePicker(statuses, on_change=self._show_plan)
        self.settings = Form(settings, on_change=self.error_box(on_settings), explain=True)
        self.settings.on_change(self._show_plan)
        self.run = widgets.Button(description="Run", button_style="primary", icon="play")
        self.cancel = widgets.Button(description="Cancel", icon="stop", disabled=True)
        self.run.on_click(self.error_box(lambda _: on_run()))
        self.cancel.on_click(self.error_box(lambda _: on_cancel()))
        self.box = self._layout(title)
        self._show_plan()

    def busy(self, value: bool) -> None:
        """Enable Cancel while a job runs, else Run."""
        self.run.disabled, self.cancel.disabled = value, not value

    def close(self) -> None:
        """Remove the widgets from the page and free them."""
        close_tree(self.box)

    def _show_plan(self) -> None:
        """Describe the planned run below the buttons."""
        if not hasattr(self, "box"):
            return
        if self.settings.error is not None:
            self.plan_note.value = html.escape(self.settings.error)
            return
        settings = self.settings.value
        self.plan_note.value = plan_sentence(
            None if self.recipes.automatic.value else len(self.recipes.chosen),
            len(self.engines.chosen),
            len(settings.batch_sizes),
            settings.budget_s,
        )

    def _layout(self, title: str) -> widgets.Widget:
        buttons = widgets.HBox([self.run, self.cancel])
        buttons.add_class("wb-buttons")
        builder = widgets.Accordion([self.steps.view], titles=("Make a recipe from steps",), selected_index=None)
        head = html_box(f'<p class="wb-title">{html.escape(title)}</p>')
        recipes = [_head("Recipes to run"), self.recipes.automatic, self.recipes.view, builder]
        rest = [_head("Engines"), self.engines.view, _head("Measurement"), self.settings.view]
        controls = widgets.VBox([head, buttons, self.plan_note, *recipes, *rest])
        controls.add_class("wb-controls")
        self.results.summary.add_class("wb-results")
        self.results.details.add_class("wb-details")
        grid = widgets.GridBox([controls, self.results.summary, self.results.details])
        grid.add_class("wb-grid")
        panel = widgets.VBox([html_box(STYLE), grid])
        panel.add_class("wb-panel")
        return panel


def _head(text: str) -> widgets.HTML:
    return html_box(f'<div class="wb-head">{html.escape(text)}</div>')


def _key(row: Row) -> str:
    return str(row["trial_key"])
