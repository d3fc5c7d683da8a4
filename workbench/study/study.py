"""The Study: a task's trials in a database: run, search, resume, cancel and query them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.checks import require_bool
from workbench.core.errors import ConfigError
from workbench.core.progress import ProgressCallback, ignore_progress
from workbench.core.untrusted import require_line
from workbench.study.config import RunConfig, SearchConfig, configured
from workbench.study.execution.job import ActiveRun
from workbench.study.recommend import recommendation
from workbench.study.results.frame import rows_frame
from workbench.study.results.merge import MergeSummary, merge_rows, rows_of_task
from workbench.study.results.ranking import Recommendation, mark_recommended, pareto_rows
from workbench.study.results.relative_latency import LATENCY
from workbench.study.results.schema import TrialRow
from workbench.study.storage.database import Store
from workbench.study.strategy.decision_log import Decision, last_decisions
from workbench.tasks.names import BUILTIN_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from workbench.compress.recipe import Recipe
    from workbench.compress.sensitivity import Sensitivity
    from workbench.measure.resources.monitor import Monitor
    from workbench.study.cluster.connection import Cluster
    from workbench.study.execution.job import Job, RunSummary
    from workbench.study.execution.seed_variance import SeedVariance
    from workbench.study.search.goals import Goals
    from workbench.study.search.history import History, SearchResult
    from workbench.study.search.space import Space
    from workbench.tasks.task import Task

CLOSE_S = 20.0
"""Longest wait for a run in another thread when a study is closed; ending a worker process takes about as long."""


class Study:
    """Trials of one task: recipes x backends x batch sizes, each timed in a process of its own.

    Parameters
    ----------
    task : Task or str
        The task, or what :func:`workbench.load_task` takes.
    storage : str
        Database URL; for SQLite the artifacts and raw samples lie next to the file in ``<name>_files``.
    name : str, optional
        Name of the study in the database; the task's name by default.
    prefix_cache : bool
        Share finished first steps of recipes across studies through the :class:`workbench.PrefixCache` of this user;
        False shares them among the recipes of one run only.

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
        if name is not None:
            require_line("Study: name", name, error=ConfigError)
        require_bool("Study: prefix_cache", prefix_cache)
        self._task = task if isinstance(task, str) and task in BUILTIN_NAMES else _load(task)
        self.name = name or (self._task if isinstance(self._task, str) else self._task.name)
        self.storage = storage
        self.prefix_cache = prefix_cache
        self._store = Store(storage)
        self.files = self._store.files
        self._active = ActiveRun()

    @property
    def task(self) -> Task:
        """The task; a built-in one is loaded on first use, so that a run's worker can import torch at the same time."""
        if isinstance(self._task, str):
            self._task = _load(self._task)
        return self._task

    def run(
        self,
        recipes: Sequence[Recipe] | None = None,
        *,
        config: RunConfig | None = None,
        monitor: Monitor | None = None,
        cluster: Cluster | str | Any = None,
        progress: ProgressCallback = ignore_progress,
        **options: Any,
    ) -> RunSummary:
        """Run every trial that is not complete; complete rows are reused.

        Parameters
        ----------
        recipes : sequence of Recipe, optional
            The float model is added, because it is the baseline. By default a strategy chooses recipes during the run,
            see :meth:`decisions`; on a cluster it is the list :func:`workbench.study.default_recipes`.
        config, **options
            A :class:`RunConfig`, and options that win over it: ``backends``, ``batch_sizes``, ``threads``,
            ``budget_s``, ``quality_drop``, ``shapes``, ``baseline``, ``references``, ``seed``, ``stall_timeout_s``.
        monitor : Monitor, optional
            Sample resource usage during the run, except while processes are loaded and timed.
        cluster : str, Client or Cluster, optional
            Run on the workers of a Dask cluster: the address of its scheduler, a ``distributed.Client``, or a
            :class:`workbench.study.Cluster`. Each kind of machine runs the whole plan with a baseline of its own.
        progress : callable
            Receives :class:`Progress` with ``stage="study"``, ``done`` of ``total`` trials, a ``message``, and
            ``values``: ``{"plan": [TrialRow, ...]}`` before the first trial, ``{"row": TrialRow}`` when a trial changed
            state, with ``{"best": TrialRow | None}`` if it is complete, and ``{"step": {...}}`` while a recipe is
            applied. Raising Cancelled in it stops the run.

        Returns
        -------
        RunSummary
            Also after a cancel, with ``cancelled`` True. On a cluster a :class:`workbench.study.ClusterSummary`.

        Raises
        ------
        StudyError, TaskError, ConfigError, BackendUnavailable, PackageMissing
            Before any work starts, if a request is not valid.
        KeyboardInterrupt
            After Ctrl-C, once the workers have ended; complete rows are kept.
        """
        from workbench.study.launch import begin_run

        config = configured(RunConfig, config, options)
        return begin_run(self, recipes, config, monitor=monitor, cluster=cluster, progress=progress)[0]()

    def start(self, recipes: Sequence[Recipe] | None = None, *, config: RunConfig | None = None, **options: Any) -> Job:
        """Start :meth:`run` with the same arguments in a thread and return at once.

        The job is a future with ``cancel()``, ``done()``, ``result(timeout)`` and ``exception(timeout)``.
        """
        from workbench.study.execution.job import Job
        from workbench.study.launch import begin_run

        others = {name: options.pop(name) for name in ("monitor", "cluster", "progress") if name in options}
        return Job(*begin_run(self, recipes, configured(RunConfig, config, options), **others))

    def search(
        self,
        space: Space,
        *,
        goals: Goals | None = None,
        minimize: str | Sequence[str] | None = None,
        maximize: str | Sequence[str] | None = None,
        prior: Sensitivity | Sequence[Sensitivity] | None = None,
        config: SearchConfig | None = None,
        progress: ProgressCallback = ignore_progress,
        **options: Any,
    ) -> SearchResult:
        """Search a space of recipes, engines and batch sizes with Optuna; calling it again resumes the search.

        Each point becomes a row of this study, and complete rows are reused. Points without training come first; the
        best trained recipe is also tried with the engine and the untrained steps of the best point. The search uses the
        validation split, the final choice the evaluation split.

        Parameters
        ----------
        space : Space
            The options that vary.
        goals : Goals, optional
            Constraints; a drop of at most 0.01 by default.
        minimize, maximize : str or sequence of str, optional
            Columns of a row. By default latency at one batch size, throughput at several. The first of several figures
            decides the recommendation.
        prior : Sensitivity or several, optional
            Tables of this task, for starting points near the goal.
        config, **options
            A :class:`workbench.study.SearchConfig`, and options that win over it: ``sampler``, ``trials``,
            ``budget_s``, ``seed``, ``threads``, ``prune``, ``stall_timeout_s``.
        progress : callable
            As in :meth:`run`, with ``stage="search"`` and points in place of trials.

        Examples
        --------
        >>> space = wb.Space(wb.vary(wb.Prune, ratio=wb.between(0.1, 0.8)))  # doctest: +SKIP
        >>> study.search(space, goals=wb.Goals(max_quality_drop=0.02), trials=20).best  # doctest: +SKIP
        """
        from workbench.study.search.api import SearchRequest, search_study

        config = configured(SearchConfig, config, options)
        request = SearchRequest(space, goals, minimize, maximize, prior)
        with self._active.work(self._active.begin(config.budget_s)) as stop:
            return search_study(self, request, config, stop, progress)

    def search_history(self) -> History:
        """Return the points of the last search, also while it runs in another process; ConfigError if there is none."""
        from workbench.study.search.api import search_history

        return search_history(self)

    def seed_variance(
        self,
        recipe: Recipe | None = None,
        seeds: int | Sequence[int] = 3,
        *,
        backend: str | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> SeedVariance:
        """Prepare a recipe with several seeds and measure the quality of each on one engine; no row is written.

        Recipe and backend are those of :meth:`best` by default; ``seeds=n`` stands for 0 to n - 1.
        """
        from workbench.study.execution.seed_variance import measure_seed_variance

        with self._active.work(self._active.begin()) as stop:
            return measure_seed_variance(self, recipe, seeds, backend, stop, progress)

    def rows(self) -> list[TrialRow]:
        """Return all rows of this task, waiting and failed ones too, in the order of the plan.

        ``recommended`` is True on at most one row: that of :meth:`best`.
        """
        rows = self._rows()
        return mark_recommended(rows, recommendation(self._store, self.name, rows))

    def frame(self) -> pd.DataFrame:
        """Return :meth:`rows` as a frame, with recipe parameters as columns such as ``params_prune_ratio``."""
        return rows_frame(self.rows())

    def pareto(self, x: str = LATENCY, y: str = "quality", *, batch_size: int | None = None) -> pd.DataFrame:
        """Return the Pareto front of two columns, sorted by ``x``; of all batch sizes by default."""
        return rows_frame(pareto_rows(self.rows(), x=x, y=y, batch_size=batch_size))

    def best(
        self,
        quality_drop: float | None = None,
        minimize: str | None = None,
        *,
        batch_size: int | None = None,
        shape: str | None = None,
    ) -> Recommendation:
        """Return the recommended row, or the nearest miss, with the reason.

        Without arguments it answers the last search, or the last run: its engines at its primary batch size.
        ``minimize`` is the latency by default.
        """
        return recommendation(
            self._store, self.name, self._rows(),
            quality_drop=quality_drop, minimize=minimize, batch_size=batch_size, shape=shape,
        )  # fmt: skip

    def decisions(self) -> tuple[Decision, ...]:
        """Return the decisions of the last run's default plan, in order; empty if the run was given recipes."""
        last = last_decisions(self._store, self.name)
        return () if last is None else last.decisions

    def planned(self) -> tuple[str, ...]:
        """Return the recipe ids of the last run's default plan; empty if the run was given recipes."""
        last = last_decisions(self._store, self.name)
        return () if last is None else last.recipe_ids

    def merge(self, rows: str | Path | Iterable[Mapping[str, Any]]) -> MergeSummary:
        """Add finished rows that were measured elsewhere: a file from ``workbench bench --output``, or rows.

        A newer measurement replaces an older merged one, and never a row that this study has timed. If a row is not
        valid, or of another task, StudyError is raised and no row is added.
        """
        return merge_rows(self._store, self.name, self.task, rows)

    def export(
        self, output: str | Path, *, trial: str | None = None, quality_drop: float | None = None, trust: bool = False
    ) -> Path:
        """Write the recommended variant into a folder that runs without torch, and return the folder.

        It holds the artifact, ``engine.json``, ``README.md`` and ``run.py``. An artifact that is no longer among the
        study's files is rebuilt from its recipe, which ``trust`` allows to call functions (``Distill.student``).
        ``output`` is a new or empty folder, or an artifact, which is replaced; other files in it are refused.
        ``trial`` is the ``trial_key`` of a finished row, or its beginning; by default that of ``best(quality_drop)``.

        Raises
        ------
        StudyError, ArtifactError
            If no row meets the goal, there is no such trial or ONNX file, or the folder cannot be written.
        """
        from workbench.study.bundle.bundle import export_bundle

        best = self.best(quality_drop)
        return export_bundle(self._rows(), best, output, files=self.files, trial=trial, task=self.task, trust=trust)

    def cancel(self) -> None:
        """Stop a run, from any thread; complete rows are kept."""
        self._active.cancel()

    def close(self) -> None:
        """Stop a run in another thread, wait until it has released its trials, and close the database."""
        self._active.cancel()
        self._active.wait(CLOSE_S)
        self._store.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        rows = self._rows()
        complete = sum(row["state"] == "complete" for row in rows)
        return f"Study({self.name!r}, storage={self.storage!r}: {complete} of {len(rows)} trials complete)"

    def _rows(self) -> list[TrialRow]:
        return rows_of_task(self._store.load(self.name).values(), self.task.fingerprint)


def _load(task: Task | str) -> Task:
    from workbench.tasks.load import load_task  # imports torch

    return load_task(task)
