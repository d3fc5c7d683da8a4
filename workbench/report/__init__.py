"""Reports: a notebook run headless by papermill, as one HTML file that needs nothing from the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_WHERE = {
    "Report": "workbench.report.report",
    "ReportResult": "workbench.report.run",
    "ReportSettings": "workbench.report.settings",
    "run_report": "workbench.report.run",
}

__all__ = ["Report", "ReportResult", "ReportSettings", "run_report"]

if TYPE_CHECKING:
    from workbench.report.report import Report
    from workbench.report.run import ReportResult, run_report
    from workbench.report.settings import ReportSettings


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'workbench.report' has no attribute {name!r}")
    value = attribute(_WHERE[name], name)
    globals()[name] = value
    return value
