"""The Study: a task's trials in a database, run, searched, resumed, cancelled and asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.core.checks import require_bool
from workbench.core.errors import ConfigError, StudyError
from workbench.core.progress import ProgressCallback, ignore_progress
from workbench.core.untrusted import require_line
from workbench.study.asking import StudyAnswers
from workbench.study.running import StudyRuns
from workbench.study.search.api import StudySearch
from workbench.study.storage.database import Store

if TYPE_CHECKING:
    from workbench.compress.recipe import Recipe
    from workbench.study.execution.seed_variance import SeedVariance
    from workbench.tasks.task import Task


CLOSE_S = 20.0
"""Seconds that closing waits for a run in another thread to end, which takes it as long as ending a process does."""


class Study(StudyRuns, StudySearch, StudyAnswers):
    """Trials of one task: recipes x backends x batch sizes, each timed in a process of its own.

    Parameters
    ----------
    task : Task or str
        The task, or what :func:`workbench.load_task` takes.
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
    ConfigError
        If ``name`` is no text, or ``prefix_cache`` neither True nor False.

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
        from workbench.tasks.load import load_task

        self.task: Task = load_task(task)
        self.name = name or self.task.name
        self.storage = storage
        self.prefix_cache = prefix_cache
        self._store = Store(storage)
        self.files = self._store.files
        self._lock = threading.Lock()
        self._stop: Any = None
        self._runner: int | None = None

    def cancel(self) -> None:
        """Stop a running :meth:`run`, from any thread; trials that are complete stay."""
        stop = self._stop
        if stop is not None:
            stop.set()

    def seed_variance(
        self,
        recipe: Recipe | None = None,
        seeds: int | Sequence[int] = 3,
        *,
        backend: str | None = None,
        progress: ProgressCallback = ignore_progress,
    ) -> SeedVariance:
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
        from workbench.study.execution.seed_variance import measure_seed_variance

        asked = recipe, seeds, backend
        stop = self._begin(None)
        self._runner = threading.get_ident()
        try:
            return measure_seed_variance(
                self.task, *asked, self.best(), self.files, stop, progress, cache=self.prefix_cache
            )
        finally:
            self._stop = None

    def close(self) -> None:
        """Stop a run in another thread, wait until it has given its trials free, and close the database."""
        self.cancel()
        end = time.monotonic() + CLOSE_S
        while self._stop is not None and threading.get_ident() != self._runner and time.monotonic() < end:
            time.sleep(0.02)
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

    def _begin(self, budget_s: float | None) -> Any:
        from workbench.study.workers.process import CancelToken

        if budget_s is not None and not (isinstance(budget_s, int | float) and budget_s > 0):
            raise StudyError(f"budget_s must be above 0 seconds, or None for no limit; got {budget_s!r}.")
        with self._lock:
            if self._stop is not None:
                raise StudyError("This study is running already. Cancel it or wait for it, then run again.")
            self._stop = CancelToken(None if budget_s is None else time.monotonic() + budget_s)
            self._runner = None
            return self._stop
