"""The Study: a task's trials in a database, run, resumed, cancelled and asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.core.progress import ProgressCallback, ignore
from workbench.study.answers import Best, best_row, mark_recommended, pareto_rows
from workbench.study.rows import COLUMNS, TrialRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from workbench.compress.recipe import Recipe
    from workbench.study.job import Job
    from workbench.study.run import RunSummary
    from workbench.tasks.task import Task

BACKENDS = ("torch-eager", "onnxruntime", "openvino")


class Study:
    """Trials of one task: recipes x backends x batch sizes, each timed in a process of its own.

    Parameters
    ----------
    task : Task or str
        The task, or what :func:`workbench.load_task` understands.
    storage : str
        Database URL; for SQLite the artefacts and raw samples lie beside the file in ``<name>_files``.
    name : str, optional
        Name of the study in the database; the task's name by default.

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

    def run(
        self,
        recipes: Sequence[Recipe] | None = None,
        backends: Sequence[str] | None = None,
        batch_sizes: Sequence[int] = (1, 8, 32),
        *,
        threads: int | None = None,
        budget_s: float | None = None,
        quality_drop: float = 0.01,
        progress: ProgressCallback = ignore,
    ) -> RunSummary:
        """Run every trial that is not complete yet; complete rows are reused.

        Progress events have ``stage="study"``, ``done``/``total`` in trials (``done`` moves in fractions while a
        variant is prepared), a ``message`` in words, and ``values``: ``{"row": TrialRow}`` when a trial changed
        state, ``{"best": TrialRow | None}`` after each complete trial, ``{"step": Progress as a dict}`` while a
        recipe is applied, ``{"plan": [...]}`` before work starts.
        """

    def start(self, *args: Any, **options: Any) -> Job:
        """Start :meth:`run` in a thread and return at once. ``job.cancel() .wait(timeout) .error .done .result``."""

    def cancel(self) -> None:
        """Stop a running :meth:`run`, from any thread; trials that are complete stay."""

    def rows(self) -> list[TrialRow]:
        """Return all rows, waiting and failed ones too, ``recommended`` set on one row at most."""

    def frame(self) -> pd.DataFrame:
        """Return all rows as a frame with every column of a row."""

    def pareto(self, x: str = "latency_ms_p50", y: str = "quality", *, batch_size: int | None = None) -> pd.DataFrame:
        """Return the rows that no other row beats in both columns."""

    def best(
        self, quality_drop: float | None = None, minimise: str = "latency_ms_p50", *, batch_size: int | None = None
    ) -> Best:
        """Return the recommended row, or the nearest miss, with the reason in words."""

    def plot(self, kind: str = "tradeoff", **options: Any) -> Figure:
        """Draw ``workbench.plots.plot_<kind>`` from the rows."""

    def close(self) -> None:
        """Close the database; a Study is a context manager too."""
