"""The panel's style sheet, in JupyterLab's colors for light and dark themes."""

from __future__ import annotations

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
