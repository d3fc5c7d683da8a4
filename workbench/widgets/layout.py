"""Style sheet and helpers of the panel: hints, errors of callbacks, and closing of widgets."""

from __future__ import annotations

import functools
import html
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets as widgets

from workbench.core.errors import WorkbenchError


def html_box(source: str = "", kind: str = "", *, hidden: bool = False) -> widgets.HTML:
    """Return a widget of HTML with a class of the style sheet."""
    box = widgets.HTML(source, layout=widgets.Layout(display="none") if hidden else widgets.Layout())
    if kind:
        box.add_class(kind)
    return box


def hint(text: str) -> widgets.HTML:
    """Return a line of small gray text."""
    return html_box(html.escape(text), "wb-hint")


def close_tree(widget: widgets.Widget) -> None:
    """Close a widget with its children, layouts and styles, which ``widget.close()`` leaves open."""
    for part in list(_tree(widget)):
        part.close()


def _tree(widget: widgets.Widget) -> Iterator[widgets.Widget]:
    owned = [*getattr(widget, "children", ()), getattr(widget, "layout", None), getattr(widget, "style", None)]
    for part in owned:
        if isinstance(part, widgets.Widget):
            yield from _tree(part)
    yield widget


class ErrorBox:
    """Store and show the last error of a panel's callbacks: ``button.on_click(error_box(start))``."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.details: str = ""
        self.view = html_box(kind="wb-error", hidden=True)

    def __call__(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Return ``callback`` with its exceptions stored and shown instead of raised."""

        @functools.wraps(callback)
        def guarded(*args: Any, **options: Any) -> None:
            try:
                callback(*args, **options)
            except Exception as error:  # noqa: BLE001 - ipywidgets would drop it
                self.show(error)

        return guarded

    def show(self, error: BaseException) -> None:
        """Store ``error`` and show it; ``details`` holds the stack trace."""
        self.error = error
        self.details = "".join(traceback.format_exception(error))
        headline, text = "Cannot run.", str(error)
        if not isinstance(error, WorkbenchError):
            headline = "Unexpected error."
            text = f"{type(error).__name__}: {error} The panel's .error_details has the stack trace."
        self.view.value = f"<b>{headline}</b> {html.escape(text)}"
        self.view.layout.display = ""

    def clear(self) -> None:
        """Clear the last error and hide its message."""
        self.error, self.details = None, ""
        self.view.value = ""
        self.view.layout.display = "none"


STYLE = """<style>
.wb-panel { container-type: inline-size; color: var(--jp-content-font-color1, #222); }
.wb-panel .widget-box, .wb-panel .jupyter-widgets { overflow: visible; }
.wb-grid { display: grid; gap: 8px 28px; grid-template-columns: 330px minmax(0, 1fr);
  grid-template-areas: "controls results" "details details"; grid-template-rows: auto 1fr; }
@container (min-width: 1240px) {
  .wb-grid { grid-template-areas: "controls results" "controls details"; }
}
@container (max-width: 720px) {
  .wb-grid { grid-template-columns: minmax(0, 1fr); grid-template-areas: "controls" "results" "details"; }
}
.wb-controls { grid-area: controls; } .wb-results { grid-area: results; } .wb-details { grid-area: details; }
.wb-title { font-size: 15px; font-weight: 600; margin: 0; line-height: 1.4; }
.wb-head { font-weight: 600; font-size: 13px; margin-top: 10px; padding-bottom: 2px;
  border-bottom: 1px solid var(--jp-border-color2, #ccc); }
.wb-panel .widget-html, .wb-panel .widget-html-content { height: auto; line-height: 1.45; font-size: 13px; }
.wb-panel .wb-hint, .wb-panel .wb-hint .widget-html-content { color: var(--jp-content-font-color2, #666);
  font-size: 12px; }
.wb-panel .wb-fault .widget-html-content { color: var(--jp-error-color0, #b00020); font-size: 12px;
  padding-left: 4px; }
.wb-panel .wb-error .widget-html-content { border-left: 4px solid var(--jp-error-color1, #d32f2f);
  background: var(--jp-error-color3, #fdecea); color: #222; padding: 6px 10px; }
.wb-panel .wb-answer .widget-html-content { border-left: 4px solid #009E73;
  background: var(--jp-layout-color2, #f3f6f5); padding: 8px 12px; }
.wb-buttons > .jupyter-button { flex: 1; font-size: 14px; }
.wb-list .widget-checkbox, .wb-list .widget-checkbox .widget-label-basic { width: 100%; height: 22px;
  min-height: 22px; line-height: 22px; margin: 0; display: flex; align-items: center; font-size: 13px; }
.wb-list .widget-checkbox .widget-label-basic > input { margin: 0 7px 0 3px; flex: none; }
.wb-list .wb-hint { margin: -2px 0 3px 23px; }
.wb-form .wb-hint { margin: -2px 2px 4px 130px; }
.wb-step { margin: 0 0 6px 14px; }
.wb-step .wb-hint { margin-left: 0; }
.wb-panel .jupyter-widget-Collapse { margin: 4px 0; }
.wb-panel .jupyter-widget-Collapse-header { padding: 4px 8px; color: var(--jp-content-font-color1, #222); }
.wb-panel .jupyter-widget-Collapse-contents { padding: 4px 8px 8px 8px; }
.wb-more .jupyter-widget-Collapse-header, .wb-more .jupyter-widget-Collapse-contents { border: none; background: none;
  padding-left: 0; padding-right: 0; }
.wb-more .jupyter-widget-Collapse-header { font-weight: 400; padding-left: 60px; }
.wb-batch { align-items: center; gap: 10px; margin-top: 6px; }
.wb-panel .progress { border-radius: 3px; }
.wb-table table { border-collapse: collapse; width: 100%; font-size: 12px; line-height: 1.3;
  font-variant-numeric: tabular-nums; }
.wb-table th, .wb-table td { text-align: right; vertical-align: top; padding: 4px 0 4px 10px; white-space: nowrap; }
.wb-table th { font-weight: 600; border-bottom: 2px solid var(--jp-border-color1, #bbb); }
.wb-table td { border-bottom: 1px solid var(--jp-border-color3, #eee); }
.wb-table .words { text-align: left; white-space: normal; }
.wb-table th:first-child, .wb-table td:first-child { padding-left: 4px; }
.wb-table small { display: block; color: var(--jp-content-font-color2, #666); font-size: 11px; font-weight: 400; }
.wb-table tr.recommended td { background: rgba(0, 158, 115, .12); }
.wb-table tr.reference td { color: var(--jp-content-font-color2, #666); font-style: italic; }
.wb-table tr.waiting td, .wb-table tr.cancelled td { color: var(--jp-content-font-color2, #777); }
.wb-table tr.failed td:last-child { color: var(--jp-error-color0, #b00020); }
.wb-table .mark { color: var(--jp-success-color0, #00704f); white-space: nowrap; }
.wb-panel pre.wb-code { font-family: var(--jp-code-font-family, monospace); font-size: 12px; line-height: 1.45;
  margin: 0; padding: 10px 12px; white-space: pre-wrap; background: var(--jp-layout-color2, #f5f5f5);
  user-select: all; }
</style>"""
