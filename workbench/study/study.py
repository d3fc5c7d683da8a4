"""The Study: a task's trials in a database, run, resumed, cancelled and asked."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.core.errors import Cancelled, StudyError
from workbench.core.progress import Progress, ProgressCallback, ignore
from workbench.study.answers import check_question
from workbench.study.asking import StudyAnswers
from workbench.study.care import STALL_S, care_for
from workbench.study.remembered import (
    Remembered,
    complete_rows,
    finished_plan,
    is_builtin,
    recall,
    remember,
    tell_finished,
)
from workbench.study.search.face import SETTING, StudySearch
from workbench.study.store import Store
from workbench.study.summary import RunSummary
from workbench.tasks.known import builtin_key

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.measure.monitor import Monitor
    from workbench.study.job import Job
    from workbench.study.spread import Spread
    from workbench.tasks.task import Task


class Study(StudySearch, StudyAnswers):
    """Trials of one task: recipes x backends x batch sizes, each timed in a process of its own.

    Parameters
    ----------
    task : Task or str
        The task, or what :func:`workbench.load_task` understands. One that ships with the workbench, given by its name,
        is loaded when it is needed: a run whose rows are all there is answered without torch. A file's is loaded at
        once, since only running it tells whether it is still the same.
    storage : str
        Database URL; for SQLite the artefacts and raw samples lie beside the file in ``<name>_files``.
    name : str, optional
        Name of the study in the database; the task's name by default.
    prefix_cache : bool
        Take finished beginnings of recipes from the :class:`workbench.PrefixCache` of this user, and keep new ones
        there: equal steps are never trained twice, in later studies neither. Rows say where that happened. False
        shares them among the recipes of one run only.

    Raises
    ------
    StudyError
        If the storage cannot be opened, written, or was made by another version.

    Examples
    --------
    >>> study = Study(wb.tasks.digits(), storage="sqlite:///digits.db")  # doctest: +SKIP
    >>> study.run(budget_s=200)  # doctest: +SKIP
    >>> study.best(quality_drop=0.01)  # doctest: +SKIP
    """

    def __init__(
        self,
        task: Task | str,
        *,
        storage: str = "sqlite:///workbench.db",
        name: str | None = None,
        prefix_cache: bool = True,
    ) -> None:
        self._task: Task | None = None
        self._builtin = task.strip() if isinstance(task, str) and is_builtin(task) else None
        # what it is made of is looked at once: a change while the study is open would be loaded by nobody
        self._key = None if self._builtin is None else builtin_key(self._builtin)
        if self._key is None or self._builtin is None:
            self._task = _loaded(task)
        self.name = name or self._builtin or self.task.name
        self.storage = storage
        self.prefix_cache = prefix_cache
        self._store = Store(storage)
        self.files = self._store.files
        self._lock = threading.Lock()
        self._stop: Any = None

    @property
    def task(self) -> Task:
        """The task; one that ships is loaded now unless it is already."""
        if self._task is None:
            self._task = _loaded(self._builtin)
        return self._task

    def run(
        self,
        recipes: Sequence[Recipe] | None = None,
        backends: Sequence[str] | None = None,
        batch_sizes: Sequence[int] = (1, 8, 32),
        *,
        threads: int | None = None,
        budget_s: float | None = None,
        quality_drop: float = 0.01,
        shapes: Mapping[str, Sequence[int]] | None = None,
        monitor: Monitor | None = None,
        stall_timeout_s: float | None = STALL_S,
        progress: ProgressCallback = ignore,
    ) -> RunSummary:
        """Run every trial that is not complete yet; complete rows are reused.

        Parameters
        ----------
        recipes : sequence of Recipe, optional
            By default :func:`workbench.study.default_recipes`. The float model is added: it is the baseline.
        backends : sequence of str, optional
            By default those of torch-eager, onnxruntime and openvino that run here.
        batch_sizes : sequence of int
            32, or the largest where it is not among them, is measured first for all recipes.
        threads : int, optional
            Of every engine; by default the physical cores that this process may use.
        budget_s : float, optional
            Seconds for the whole run; what does not fit is left waiting and said.
        quality_drop : float
            Largest drop of quality that a recommended variant may have, in the metric's units.
        shapes : dict of sequences of int, optional
            Sizes of dimensions that ``Task(dynamic=...)`` leaves open: ``{"sequence": [16, 64]}``. Several are taken
            together, position by position. Every batch size is timed at every shape, on example inputs that are cut
            or repeated to it; the first one is measured first. By default they keep their own size. Quality is that
            of the evaluation samples as they are.
        monitor : Monitor, optional
            Samples what the run takes, with a mark for each recipe: started for the run unless it runs already, and
            paused while processes are loaded and timed. :func:`workbench.plots.plot_monitor` draws it.
        stall_timeout_s : float, optional
            Seconds that a process may prepare, load, time or evaluate without a sign of life (a training gives one
            every batch, an export none until it is done). Then it is killed, its trial fails, and the others go on.
            Half an hour by default; None waits for ever.
        progress : callable
            Gets :class:`Progress` with ``stage="study"``, ``done`` of ``total`` trials (``done`` moves in fractions
            while a variant is prepared), a ``message`` in words, and ``values``: ``{"plan": [TrialRow, ...]}`` before
            work starts, ``{"row": TrialRow}`` when a trial changed state, with ``{"best": TrialRow | None}`` after
            each complete one, ``{"step": {...}}`` while a recipe is applied. Raising Cancelled in it stops the run.

        Returns
        -------
        RunSummary
            After a cancel too, with ``cancelled`` True.

        Raises
        ------
        StudyError, TaskError, ConfigError, BackendUnavailable
            Before any work starts, when something asked for cannot be done.
        KeyboardInterrupt
            After Ctrl-C, once the children are ended and what is complete is kept.
        """
        stop = self._begin(budget_s)
        return self._run(
            stop,
            recipes,
            backends,
            batch_sizes,
            threads=threads,
            budget_s=budget_s,
            quality_drop=quality_drop,
            shapes=shapes,
            monitor=monitor,
            stall_timeout_s=stall_timeout_s,
            progress=progress,
        )

    def start(self, *args: Any, **options: Any) -> Job:
        """Start :meth:`run` with the same arguments in a thread and return at once.

        The job has ``cancel()``, ``wait(timeout)``, ``done``, ``error`` and ``result``.
        """
        from workbench.study.job import Job

        stop = self._begin(options.get("budget_s"))
        return Job(lambda: self._run(stop, *args, **options), stop.set)

    def cancel(self) -> None:
        """Stop a running :meth:`run`, from any thread; trials that are complete stay."""
        stop = self._stop
        if stop is not None:
            stop.set()

    def spread(
        self,
        recipe: Recipe | None = None,
        seeds: int | Sequence[int] = 3,
        *,
        backend: str | None = None,
        progress: ProgressCallback = ignore,
    ) -> Spread:
        """Prepare a recipe with several seeds and measure the quality of each on one engine; rows stay as they are.

        Parameters
        ----------
        recipe : Recipe, optional
            That of :meth:`best` by default.
        seeds : int or sequence of int
            A number n stands for 0 to n - 1.
        backend : str, optional
            Engine that quality is measured on; that of :meth:`best` by default.

        Returns
        -------
        Spread
            ``frame()`` has a row per seed, and their mean, min and max.

        Raises
        ------
        StudyError
            If there is nothing to spread, or a seed's variant cannot be prepared or run.
        Cancelled
            After :meth:`cancel`.
        """
        from workbench.study.spread import measure_spread

        asked = recipe, seeds, backend
        stop = self._begin(None)
        try:
            return measure_spread(self.task, *asked, self.best(), self.files, stop, progress, cache=self.prefix_cache)
        finally:
            self._stop = None

    def close(self) -> None:
        """Stop a run in another thread and close the database."""
        self.cancel()
        self._store.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        rows = self._rows()
        complete = sum(row["state"] == "complete" for row in rows)
        return f"Study({self.name!r}, storage={self.storage!r}: {complete} of {len(rows)} trials complete)"

    @property
    def task_fingerprint(self) -> str:
        """12 hex digits over the task's data, weights and version; the task is loaded where nobody remembers them."""
        known = self._recall()
        return self.task.fingerprint if known is None else known.fingerprint

    def _recall(self) -> Remembered | None:
        """Return what is known of a task that is not loaded."""
        return recall(self._store, self.name, self._key) if self._task is None else None

    def _remember(self, found: Remembered) -> None:
        if self._builtin is not None and self._key is not None:
            remember(self._store, self.name, self._key, found)

    def _note_question(self, quality_drop: float) -> None:
        self._store.set_setting(self.name, "quality_drop", quality_drop)
        self._store.set_setting(self.name, SETTING, None)

    def _begin(self, budget_s: float | None) -> Any:
        from workbench.study.child import Stop

        if budget_s is not None and not (isinstance(budget_s, int | float) and budget_s > 0):
            raise StudyError(f"budget_s must be above 0 seconds, or None for no limit; got {budget_s!r}.")
        with self._lock:
            if self._stop is not None:
                raise StudyError("This study is running already. Cancel it or wait for it, then run again.")
            self._stop = Stop(None if budget_s is None else time.monotonic() + budget_s)
            return self._stop

    def _run(
        self,
        stop: Any,
        recipes: Sequence[Recipe] | None = None,
        backends: Sequence[str] | None = None,
        batch_sizes: Sequence[int] = (1, 8, 32),
        *,
        threads: int | None = None,
        budget_s: float | None = None,
        quality_drop: float = 0.01,
        shapes: Mapping[str, Sequence[int]] | None = None,
        monitor: Monitor | None = None,
        stall_timeout_s: float | None = STALL_S,
        progress: ProgressCallback = ignore,
    ) -> RunSummary:
        from workbench.study.ledger import Ledger
        from workbench.study.plan import check_recipes, plan_for
        from workbench.study.prepare import PrepareHost, pack
        from workbench.study.run import Run, watching
        from workbench.study.shapes import shapes_of

        started = time.monotonic()
        asked = (recipes, backends, batch_sizes)
        limits: dict[str, Any] = {"threads": threads, "budget_s": budget_s}
        try:
            with contextlib.ExitStack() as early:
                try:
                    check_question(quality_drop=quality_drop, minimise="latency_ms_p50")
                    watched, care = watching(monitor), care_for(stall_timeout_s)
                    progress(Progress("study", 0, 0, "checking the task"))
                    known = self._recall()
                    done = known and finished_plan(known, self._store, self.name, *asked, shapes=shapes, **limits)
                    if done:
                        self._note_question(quality_drop)
                        return tell_finished(*done, time.monotonic() - started, progress)
                    host = PrepareHost(None, self.files, stop, prefix_cache=self.prefix_cache, care=care)
                    early.callback(host.close, kill=True)  # where the run does not come to that
                    if self._task is None:
                        host.start()  # it imports torch while we do
                    known = Remembered.of(self.task)
                    points = shapes_of(shapes, known.axes, whose="the task's", own=known.own)
                    plan = plan_for(known.fingerprint, *asked, shapes=points, **limits)
                    if complete_rows(self._store, self.name, plan) is None:
                        host.start()
                    check_recipes(plan.recipes, self.task)
                    shipment = pack(self.task)
                    stop.check()
                except Cancelled:
                    return RunSummary(0, 0, 0, 0, cancelled=True, seconds=time.monotonic() - started)
                self._note_question(quality_drop)
                self._remember(known)
                rows = plan.rows(self.task.name, shipment.fingerprint)
                with Ledger(self._store, self.name, plan, rows, quality_drop=quality_drop, progress=progress) as ledger:
                    more: dict[str, Any] = {"host": host, "monitor": monitor, "care": care}
                    run = Run(self.task, plan, ledger, shipment, self.files, stop, **more)
                    with watched:
                        return dataclasses.replace(run.work(), seconds=time.monotonic() - started)
        finally:
            self._stop = None


def _loaded(task: Any) -> Task:
    from workbench.tasks.load import load_task

    return load_task(task)
