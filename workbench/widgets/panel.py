"""The panel: choose recipes and engines, run, cancel, resume, compare, and copy the code of a result."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RecipeError, StudyError
from workbench.core.progress import Progress
from workbench.engine.backends import backend_status
from workbench.engine.names import DEFAULT_BACKENDS
from workbench.present.code import code_for
from workbench.present.findings import Row
from workbench.study.plan.recipes import default_recipes
from workbench.study.study import Study
from workbench.tasks.load import load_task
from workbench.widgets.panel_job import PanelJob, RunSettings
from workbench.widgets.status_text import TimeEstimate, clock, trials_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.tasks.task import Task
    from workbench.widgets.panel_view import PanelView

DEFAULT_STORAGE = "sqlite:///workbench.db"
CHARTS = ("tradeoff", "throughput", "memory", "waterfall")

logger = logging.getLogger(__name__)
_panels: weakref.WeakValueDictionary[tuple[str, str], Workbench] = weakref.WeakValueDictionary()


class Workbench:
    """Interactive panel over a study of one task: controls at the left, results at the right.

    Run starts a background job. Cancel stops it; finished trials stay, and Run resumes. A second panel over the same
    task and storage closes the first, so that a cell can be run again.

    Parameters
    ----------
    task : Task or str
        The task, or a reference for :func:`workbench.load_task`.
    storage : str, optional
        Database URL of the study; ``sqlite:///workbench.db`` in the working folder by default.
    interactive : bool
        If False, no widget is created; :meth:`run` does the same work and returns the charts.
    study : Study, optional
        Use this study instead of opening one; it stays open after :meth:`close`.
    **settings
        Initial ``batch_sizes``, ``threads``, ``quality_drop`` and ``budget_s``.

    Raises
    ------
    TaskError, ConfigError
        If the task does not exist, or a setting is unknown or invalid.

    Examples
    --------
    >>> panel = Workbench(wb.tasks.digits())                                  # doctest: +SKIP
    >>> panel                                                                 # doctest: +SKIP
    >>> Workbench(task, interactive=False).run(budget_s=200)["tradeoff"]      # doctest: +SKIP
    """

    def __init__(
        self,
        task: Task | str,
        *,
        storage: str | None = None,
        interactive: bool = True,
        study: Study | None = None,
        **settings: Any,
    ) -> None:
        self.task = load_task(task)
        self._settings = RunSettings.for_task(self.task.name, settings)
        self.storage = storage or DEFAULT_STORAGE
        self._given_study, self._study = study, study
        self._job = PanelJob(lambda: self.study, tick=self._tick, ended=self._ended)
        self._limit = self._settings.quality_drop
        self._message = ""
        self._message_lock = threading.Lock()  # the last message must be that of the last event
        self._pace: TimeEstimate | None = None
        self._share: float | None = None
        self._view: PanelView | None = None
        if interactive:
            self._view = self._build_view()
            self._take_over()
            self._view.error_box(self._show_earlier)()
        else:
            _ = self.study  # raise errors of the storage now

    @property
    def study(self) -> Study:
        """The study behind the panel, opened on first use."""
        if self._study is None:
            self._study = Study(self.task, storage=self.storage)
        return self._study

    @property
    def state(self) -> str:
        """One of ready, running, cancelling, cancelled, finished, failed."""
        return self._job.state

    @property
    def error(self) -> BaseException | None:
        """The last error of a callback or the run, or None."""
        return self._job.error if self._view is None else self._view.error_box.error

    @property
    def error_details(self) -> str:
        """The stack trace of :attr:`error`."""
        return "" if self._view is None else self._view.error_box.details

    @property
    def view(self) -> PanelView:
        """The panel's widgets; raises StudyError if ``interactive=False``."""
        if self._view is None:
            raise StudyError("Workbench.view needs interactive=True, got interactive=False.")
        return self._view

    def plan(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of :meth:`Study.run` from the panel or its defaults; ``changes`` override them.

        Raises
        ------
        ConfigError, RecipeError, StudyError
            If a setting is invalid, or no recipe or engine is selected.
        """
        settings = self._settings if self._view is None else self._view.settings.value
        settings = settings.replace(**{name: changes.pop(name) for name in settings.to_dict() if name in changes})
        if self._view is None:
            changes.setdefault("recipes", None)
            changes.setdefault("backends", [s.name for s in backend_status(DEFAULT_BACKENDS) if s.available])
        else:
            changes.setdefault("recipes", self._view.recipes.plan)
            changes.setdefault("backends", self._view.engines.chosen)
        if changes["recipes"] is not None and not changes["recipes"]:
            raise RecipeError("Select at least one recipe under 'Recipes to run'.")
        if not changes["backends"]:
            raise StudyError("Select at least one engine under 'Engines'.")
        return {**changes, **vars(settings)}

    def start(self, **changes: Any) -> None:
        """Start the run in the background; does nothing while one is active."""
        if self._job.busy:
            return
        plan = self.plan(**changes)
        self._limit = plan["quality_drop"]
        self._pace, self._share = TimeEstimate(time.monotonic(), plan["budget_s"]), None
        if self._view is not None:
            self._view.error_box.clear()
            self._view.busy(True)
            self._view.results.show_state("Running.", "Checking the task.", fraction=0.0)
        self._job.start(plan)

    def cancel(self) -> None:
        """Request the run to stop; finished trials stay. :meth:`wait` waits for its end."""
        with self._message_lock:
            if self._job.cancel() and self._view is not None:
                self._view.cancel.disabled = True
                self._view.results.show_state("Cancelling.", "Stopping the current trial.")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the run to end, at most ``timeout`` seconds; return True if it has."""
        return self._job.wait(timeout)

    def run(self, **changes: Any) -> dict[str, Figure]:
        """Run to the end and return the charts by name: tradeoff, throughput, memory and waterfall.

        ``changes`` override arguments of :meth:`Study.run`. Ctrl-C cancels.

        Raises
        ------
        WorkbenchError
            If the run failed.
        """
        self.start(**changes)
        try:
            self.wait()
        except KeyboardInterrupt:
            self.cancel()
            self.wait()
            raise
        if self.error is not None:
            raise self.error
        from workbench import plots

        return {kind: getattr(plots, f"plot_{kind}")(self.study) for kind in CHARTS}

    def code(self, row: Row) -> str:
        """Return Python code that reproduces one row of :meth:`Study.rows`."""
        return code_for(row, reference=self.task.reference)

    def close(self) -> None:
        """Cancel the run, wait for it, and remove the widgets."""
        self.cancel()
        self.wait()
        if self._view is not None:
            self._view.close()
        if self._given_study is None and self._study is not None:
            self._study.close()
            self._study = None

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Workbench({self.task.name!r}, storage={self.storage!r}, state={self.state!r})"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return {"text/plain": repr(self)} if self._view is None else self._view.box._repr_mimebundle_(**options)

    def _build_view(self) -> PanelView:
        from workbench.widgets.panel_view import PanelView

        return PanelView(
            f"Workbench: {self.task.name}",
            statuses=backend_status(DEFAULT_BACKENDS),
            presets=default_recipes(self._settings.budget_s),
            settings=self._settings,
            make_code=self.code,
            on_run=self.start,
            on_cancel=self.cancel,
            on_settings=self._settings_changed,
        )

    def _take_over(self) -> None:
        """Close an earlier panel of this study, so that no run continues without a Cancel button."""
        key = (self.task.name, self.storage if self._given_study is None else f"study {id(self._given_study)}")
        earlier = _panels.get(key)
        _panels[key] = self
        if earlier is not None:
            earlier.close()

    def _settings_changed(self) -> None:
        """Update the presets, whose training lengths follow the budget."""
        if self.view.settings.error is not None:
            return
        settings = self.view.settings.value
        if settings.budget_s != self._settings.budget_s:
            self.view.recipes.set_presets(default_recipes(settings.budget_s))
        self._settings = settings

    def _show_earlier(self) -> None:
        rows = self.study.rows()
        if rows:
            trials = f"From an earlier run: {trials_sentence(rows)}."
            self.view.results.show_state("Ready.", f"{trials} Run continues with the rest.")
            self._show_rows()

    def _show_rows(self) -> None:
        self.view.results.show(self.study.rows(), self.study.best(quality_drop=self._limit), limit=self._limit)

    def _tick(self, event: Progress | None, rows_changed: bool) -> None:
        """Show progress; called in the run's thread."""
        if self._view is not None:
            self._view.error_box(self._paint)(event, rows_changed)
        elif event is not None and event.message and event.message != self._message:
            self._message = event.message
            logger.info("%s", event.message)

    def _paint(self, event: Progress | None, rows_changed: bool) -> None:
        if event is not None and event.fraction is not None:
            self._share = max(self._share or 0.0, event.fraction)  # the bar never goes back
        if self._pace is not None:
            self.view.results.show_notes(self._pace.sentence(time.monotonic(), self._share))
        with self._message_lock:
            if event is not None and self.state == "running":
                self.view.results.show_state("Running.", event.message, fraction=self._share)
        if rows_changed:
            self._show_rows()

    def _ended(self) -> None:
        """Show the end of the run; called in the run's thread."""
        if self._view is None:
            return
        with self._message_lock:
            self._view.error_box(self._show_end)()
        if self._job.error is not None:
            self._view.error_box.show(self._job.error)
        self._view.busy(False)

    def _show_end(self) -> None:
        rows, result = self.study.rows(), self._job.result
        trials = f"{trials_sentence(rows)}."
        results, state = self.view.results, self.state
        results.show_notes(f"{clock(self._job.seconds)} in total", *(result.cut if result is not None else ()))
        if state == "finished" and result is not None and result.open:
            results.show_state("Time budget used up.", f"{trials} Run continues with the rest.", state="cancelled")
        elif state == "finished":
            results.show_state("Finished.", trials, fraction=1.0, state=state)
        elif state == "cancelled":
            results.show_state("Cancelled.", f"{trials} Run resumes here.", state=state)
        else:
            results.show_state("Failed.", trials, state=state)
        if rows:
            self._show_rows()
