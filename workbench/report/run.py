"""The whole report: parameters checked, notebook run, HTML page, executed notebook and trials left in a folder."""

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
GIVEN_APART = ("task", "output_dir", "started_at", "interactive")  # not for -p: run_report sets them itself


@dataclass(frozen=True)
class ReportResult:
    """What a report left behind. ``ok`` is False where it is incomplete, and ``reason`` then says where and why.

    ``stopped`` tells that the user stopped it; the same call goes on from what is kept.
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
    """Measure a task and leave ``report.html``, ``report.ipynb`` and ``trials.jsonl`` in a folder.

    Parameters
    ----------
    task : str or Task
        Built-in name, ``file.py:function``, ``module:function``, or a Task that was loaded from one of these.
    output : path
        The folder; made where missing. The study's database lies in it too, so that the same call resumes.
    parameters : mapping, optional
        Values for the notebook's tagged parameters cell, for example ``{"budget_s": 600}``.
    progress : callable, optional
        Gets lines of text; by default they go to standard error.

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
    started, say = time.time(), progress or _to_stderr
    notebook = find_notebook(NOTEBOOK)
    given = _checked(notebook, parameters or {})
    asked = {**given, "output_dir": str(output), "started_at": started, "interactive": False}
    from_dict(ReportSettings, asked)  # a wrong setting is told before the task is loaded
    folder = writable_folder(output).resolve()
    loaded = _load(task)
    remarks = loaded.check()
    ready = {**asked, "task": _reference(loaded), "output_dir": str(folder)}
    settings = from_dict(ReportSettings, ready)
    say(f"report of {loaded.name}: at most {settings.budget:.0f} s, into {folder}\n")
    for remark in remarks:
        say(f"note: {remark}\n")
    return _execute(notebook, folder, ready, settings, loaded, say)


def _execute(
    notebook: Path,
    folder: Path,
    ready: Mapping[str, Any],
    settings: ReportSettings,
    task: Task,
    say: Callable[[str], None],
) -> ReportResult:
    from workbench.report.execute import NotebookFailed, execute_notebook
    from workbench.report.page import write_page

    result = ReportResult(folder / "report.html", folder / "report.ipynb", folder / "trials.jsonl", ok=True)
    for old in (result.html, result.notebook, result.trials):  # never a new page beside old trials
        old.unlink(missing_ok=True)
    reason, stopped = "", False
    try:
        execute_notebook(notebook, result.notebook, ready, log=say)
    except NotebookFailed as error:
        reason, stopped = str(error), error.stopped
    if reason and not result.trials.exists():
        reason = _rescue(settings, folder, task, result.trials, reason)
    write_page(result.notebook, result.html, title=f"Trade-off report: {task.name}", failure=reason or None)
    return ReportResult(result.html, result.notebook, result.trials, not reason, reason, stopped)


def _rescue(settings: ReportSettings, folder: Path, task: Task, path: Path, reason: str) -> str:
    """Write the trials that the database holds, where the notebook could not; returns the reason, with more if so."""
    from workbench.present.trials import write_trials
    from workbench.report.report import storage_url
    from workbench.study.study import Study

    try:
        with Study(task, storage=storage_url(settings, folder)) as study:
            write_trials(study.rows(), path)
    except WorkbenchError as error:
        return f"{reason} The trials could not be read either: {error}"
    return reason


def _checked(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    for name in GIVEN_APART:
        if name in given:
            raise ConfigError(f"Parameter {name!r} is set by the report itself; give the task and the output folder.")
    defaults = read_parameters(notebook)
    return check_parameters(given, {name: value for name, value in defaults.items() if name not in GIVEN_APART})


def _load(task: str | Task) -> Task:
    with optional_import("run_report"):
        from workbench.tasks.load import load_task

    return load_task(task)


def _reference(task: Task) -> str:
    if task.reference is None:
        raise ConfigError(
            f"The report runs in a process of its own and cannot find the task {task.name!r} there. Put the function "
            "that makes it into a file and give 'path/to/file.py:function'."
        )
    return task.reference


def _to_stderr(words: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the work is worth finishing
        sys.stderr.write(words)
        sys.stderr.flush()
