"""The panel: choose steps and engines, run, watch, cancel, run again, and take the code of a point home."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from workbench.core.errors import RecipeError, StudyError
from workbench.core.progress import Progress
from workbench.engine.backends import DEFAULT_BACKENDS, backend_status
from workbench.present.code import code_for
from workbench.present.findings import Row
from workbench.study.plan.default_recipes import default_recipes
from workbench.study.study import Study
from workbench.tasks.load import load_task
from workbench.widgets.panel_job import Runner
from workbench.widgets.settings import RunSettings
from workbench.widgets.status_text import Pace, clock, trials_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.tasks.task import Task
    from workbench.widgets.panel_view import View

DEFAULT_STORAGE = "sqlite:///workbench.db"
CHARTS = ("tradeoff", "throughput", "memory", "waterfall")

logger = logging.getLogger(__name__)
_panels: weakref.WeakValueDictionary[tuple[str, str], Workbench] = weakref.WeakValueDictionary()


class Workbench:
    """A panel over a study of one task: what to run at the left, what came out at the right.

    Run starts a job in a thread and returns at once. Cancel stops it: finished trials stay, and Run goes on where
    it stopped. A second panel over the same task and storage closes the first, so that a cell can be run again.

    Parameters
    ----------
    task : Task or str
        The task, or what :func:`workbench.load_task` understands.
    storage : str, optional
        Database URL of the study; ``sqlite:///workbench.db`` in the working folder by default.
    interactive : bool
        With False no widget is made at all: :meth:`run` does the same work and returns the charts.
    study : Study, optional
        Show and run this study instead of opening one; it stays open after :meth:`close`.
    **settings
        What the measurement starts from: ``batch_sizes``, ``threads``, ``quality_drop`` and ``budget_s``.

    Raises
    ------
    TaskError, ConfigError
        If there is no such task, or a setting is unknown or cannot be used.

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
        self._runner = Runner(lambda: self.study, tick=self._tick, ended=self._ended)
        self._limit = self._settings.quality_drop
        self._said = ""
        self._saying = threading.Lock()  # what is said last must be what happened last
        self._pace: Pace | None = None
        self._share: float | None = None
        self._view: View | None = None
        if interactive:
            self._view = self._build_view()
            self._take_over()
            self._view.guard(self._show_earlier)()
        else:
            _ = self.study  # what is wrong with the storage is said now

    @property
    def study(self) -> Study:
        """The study behind the panel, opened on first use."""
        if self._study is None:
            self._study = Study(self.task, storage=self.storage)
        return self._study

    @property
    def state(self) -> str:
        """One of ready, running, cancelling, cancelled, finished, failed."""
        return self._runner.state

    @property
    def error(self) -> BaseException | None:
        """What went wrong last, in a callback or in the run, or None; the panel shows it as a sentence."""
        return self._runner.error if self._view is None else self._view.guard.error

    @property
    def error_details(self) -> str:
        """The stack trace of :attr:`error`, for a bug report."""
        return "" if self._view is None else self._view.guard.details

    @property
    def view(self) -> View:
        """The panel's widgets; StudyError where it was made with ``interactive=False``."""
        if self._view is None:
            raise StudyError("This Workbench has no widgets: it was made with interactive=False.")
        return self._view

    def plan(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of :meth:`Study.run` as chosen in the panel, or the defaults; ``changes`` win.

        Raises
        ------
        ConfigError, RecipeError, StudyError
            If a setting cannot be used, or no recipe or no engine is ticked.
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
            raise RecipeError("No recipe is ticked. Tick at least one under 'Recipes to run'.")
        if not changes["backends"]:
            raise StudyError("No engine is ticked. Tick at least one under 'Engines'.")
        return {**changes, **settings.options()}

    def start(self, **changes: Any) -> None:
        """Start the run in a thread and return at once; does nothing while one is going on."""
        if self._runner.busy:
            return
        plan = self.plan(**changes)
        self._limit = plan["quality_drop"]
        self._pace, self._share = Pace(time.monotonic(), plan["budget_s"]), None
        if self._view is not None:
            self._view.guard.clear()
            self._view.busy(True)
            self._view.results.say("Running.", "The task is being checked.", fraction=0.0)
        self._runner.start(plan)

    def cancel(self) -> None:
        """Stop the run and return at once; finished trials stay. :meth:`wait` waits for the end."""
        with self._saying:
            if self._runner.cancel() and self._view is not None:
                self._view.cancel.disabled = True
                self._view.results.say("Cancelling.", "The trial that runs now is being stopped.")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the run to end, at most ``timeout`` seconds; True when it has."""
        return self._runner.wait(timeout)

    def run(self, **changes: Any) -> dict[str, Figure]:
        """Run to the end and return the charts by name: tradeoff, throughput, memory and waterfall.

        ``changes`` are arguments of :meth:`Study.run` that win over what is chosen. Ctrl-C cancels.

        Raises
        ------
        WorkbenchError
            What stopped the run.
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
        return {kind: self.study.plot(kind) for kind in CHARTS}

    def code(self, row: Row) -> str:
        """Return the Python code that repeats one row of :meth:`Study.rows`."""
        return code_for(row, reference=self.task.reference)

    def close(self) -> None:
        """Cancel what runs, wait for it, and take the widgets away."""
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

    def _build_view(self) -> View:
        from workbench.widgets.panel_view import View

        return View(
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
        """Close the panel that a cell made before, so that no run goes on without a Cancel button."""
        key = (self.task.name, self.storage if self._given_study is None else f"study {id(self._given_study)}")
        earlier = _panels.get(key)
        _panels[key] = self
        if earlier is not None:
            earlier.close()

    def _settings_changed(self) -> None:
        """Training lengths of the presets follow the budget."""
        if self.view.settings.error is not None:
            return
        settings = self.view.settings.value
        if settings.budget_s != self._settings.budget_s:
            self.view.recipes.set_presets(default_recipes(settings.budget_s))
        self._settings = settings

    def _show_earlier(self) -> None:
        rows = self.study.rows()
        if rows:
            self.view.results.say("Ready.", f"From an earlier run: {trials_sentence(rows)}. Run goes on with the rest.")
            self._show_rows()

    def _show_rows(self) -> None:
        self.view.results.show(self.study.rows(), self.study.best(quality_drop=self._limit), limit=self._limit)

    def _tick(self, event: Progress | None, rows_changed: bool) -> None:
        """Show how far the run is; called in the run's thread."""
        if self._view is not None:
            self._view.guard(self._paint)(event, rows_changed)
        elif event is not None and event.message and event.message != self._said:
            self._said = event.message
            logger.info("%s", event.message)

    def _paint(self, event: Progress | None, rows_changed: bool) -> None:
        if event is not None and event.fraction is not None:
            self._share = max(self._share or 0.0, event.fraction)  # the bar never goes back
        if self._pace is not None:
            self.view.results.note(self._pace.sentence(time.monotonic(), self._share))
        with self._saying:
            if event is not None and self.state == "running":
                self.view.results.say("Running.", event.message, fraction=self._share)
        if rows_changed:
            self._show_rows()

    def _ended(self) -> None:
        """Say how the run ended; called in the run's thread."""
        if self._view is None:
            return
        with self._saying:
            self._view.guard(self._show_end)()
        if self._runner.error is not None:
            self._view.guard.keep(self._runner.error)
        self._view.busy(False)

    def _show_end(self) -> None:
        rows = self.study.rows()
        result = self._runner.result
        trials = f"{trials_sentence(rows)}."
        results, state = self.view.results, self.state
        results.note(f"{clock(self._runner.seconds)} in all", *(result.cut if result is not None else ()))
        if state == "finished" and result is not None and result.open:
            results.say("Time is up.", f"{trials} Run goes on with the rest.", state="cancelled")
        elif state == "finished":
            results.say("Finished.", trials, fraction=1.0, state=state)
        elif state == "cancelled":
            results.say("Cancelled.", f"{trials} Run goes on where this stopped.", state=state)
        else:
            results.say("Stopped by an error.", trials, state=state)
        if rows:
            self._show_rows()
