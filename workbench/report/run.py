"""Run the report notebook of a task and write its page, notebook and trials to a folder."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.config import from_dict
from workbench.core.errors import ConfigError, WorkbenchError
from workbench.core.files import writable_folder
from workbench.core.lazy import optional_import
from workbench.report.parameters import check_parameters, find_notebook, read_parameters
from workbench.report.settings import ReportSettings

if TYPE_CHECKING:
    from workbench.tasks.task import Task

NOTEBOOK = "90_tradeoff_report.ipynb"
RESERVED = ("task", "output_dir", "started_at", "interactive")  # parameters set by run_report


@dataclass(frozen=True)
class ReportResult:
    """Files of a report. ``ok`` is False if it is incomplete; ``reason`` holds the cell and the error.

    ``stopped`` is True if the user interrupted it; the same call continues.
    """

    html: Path
    notebook: Path
    trials: Path
    ok: bool
    reason: str = ""
    stopped: bool = False


def run_report(
    task: str | Task,
    *,
    output: str | Path,
    parameters: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> ReportResult:
    """Measure a task and write ``report.html``, ``report.ipynb`` and ``trials.jsonl`` to a folder.

    Parameters
    ----------
    task : str or Task
        Built-in name, ``file.py:function``, ``module:function``, or a Task loaded from one of these.
    output : path
        The folder, created if missing. It also holds the study's database, from which the same call resumes.
    parameters : mapping, optional
        Values of the notebook's parameters, for example ``{"budget_s": 600}``.
    progress : callable, optional
        Called with lines of text; default: written to standard error.

    Raises
    ------
    ConfigError
        For an unknown parameter or one of another type, before any work.
    TaskError
        If the task cannot be loaded or used.
    WorkbenchError
        If the folder cannot be written.

    Examples
    --------
    >>> run_report("digits", output="reports/digits").html  # doctest: +SKIP
    PosixPath('reports/digits/report.html')
    """
    started, log = time.time(), progress or _to_stderr
    notebook = find_notebook(NOTEBOOK)
    values = _checked(notebook, parameters or {})
    values |= {"output_dir": str(output), "started_at": started, "interactive": False}
    from_dict(ReportSettings, values)  # refuse a wrong setting before loading the task
    folder = writable_folder(output).resolve()
    with optional_import("run_report"):
        from workbench.tasks.load import load_task
    loaded = load_task(task)
    remarks = loaded.check()
    values |= {"task": _reference(loaded), "output_dir": str(folder)}
    settings = from_dict(ReportSettings, values)
    log(f"report of {loaded.name}: at most {settings.budget:.0f} s, into {folder}\n")
    for remark in remarks:
        log(f"note: {remark}\n")
    return _execute(notebook, folder, values, settings, loaded, log)


def _execute(
    notebook: Path,
    folder: Path,
    values: Mapping[str, Any],
    settings: ReportSettings,
    task: Task,
    log: Callable[[str], None],
) -> ReportResult:
    from workbench.report.notebook import NotebookFailed, execute_notebook, write_page

    result = ReportResult(folder / "report.html", folder / "report.ipynb", folder / "trials.jsonl", ok=True)
    for old in (result.html, result.notebook, result.trials):  # no old trials next to a new page
        old.unlink(missing_ok=True)
    reason, stopped = "", False
    try:
        execute_notebook(notebook, result.notebook, values, log=log)
    except NotebookFailed as error:
        reason, stopped = str(error), error.stopped
    if reason and not result.trials.exists():
        reason = _rescue(settings, folder, task, result.trials, reason)
    write_page(result.notebook, result.html, title=f"Trade-off report: {task.name}", failure=reason or None)
    return ReportResult(result.html, result.notebook, result.trials, not reason, reason, stopped)


def _rescue(settings: ReportSettings, folder: Path, task: Task, path: Path, reason: str) -> str:
    """Write the trials of the database if the notebook did not; return the reason, extended on a failure."""
    from workbench.present.files import write_trials
    from workbench.report.report import storage_url
    from workbench.study.study import Study

    try:
        with Study(task, storage=storage_url(settings, folder)) as study:
            write_trials(study.rows(), path)
    except WorkbenchError as error:
        return f"{reason} The trials could not be read either: {error}"
    return reason


def _checked(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    for name in RESERVED:
        if name in given:
            raise ConfigError(f"Parameter {name!r} is set by the report. Give the task and the output folder instead.")
    defaults = read_parameters(notebook)
    return check_parameters(given, {name: value for name, value in defaults.items() if name not in RESERVED})


def _reference(task: Task) -> str:
    if task.reference is None:
        raise ConfigError(
            f"The report runs in another process, where task {task.name!r} must be importable. Put the function that "
            "makes it into a file and give 'path/to/file.py:function'."
        )
    return task.reference


def _to_stderr(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader is gone; the work continues
        sys.stderr.write(text)
        sys.stderr.flush()
