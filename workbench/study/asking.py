"""What a study answers from its rows: tables, the row to take, charts, and what goes to or comes from elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.errors import StudyError, unknown_name
from workbench.core.machine import fingerprint_id
from workbench.study.results.merge import MergeSummary, merge_rows, rows_of_task
from workbench.study.results.ranking import Recommendation, best_row, mark_recommended, pareto_rows
from workbench.study.results.relative_latency import LATENCY
from workbench.study.results.schema import COLUMNS, TrialRow
from workbench.study.search.api import stored_question
from workbench.study.search.goals import recommend
from workbench.study.storage.database import Store
from workbench.study.storage.last_run import last_run
from workbench.study.strategy.decision_log import Decision, last_decisions

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from workbench.tasks.task import Task

PLOTS = ("tradeoff", "throughput", "memory", "waterfall")


class StudyAnswers:
    """The half of a :class:`Study` that reads: it needs the task, the name and the store, and runs nothing."""

    name: str
    files: Path
    _store: Store

    if TYPE_CHECKING:  # the other halves have them
        task: Task

    def rows(self) -> list[TrialRow]:
        """Return all rows of this task, waiting and failed ones too, in the order they were planned.

        ``recommended`` is True on one row at most: :meth:`best` with the limit of the last run.
        """
        rows = self._rows()
        return mark_recommended(rows, self._best(rows))

    def merge(self, rows: str | Path | Iterable[Mapping[str, Any]]) -> MergeSummary:
        """Take in rows that were measured elsewhere: a file that ``workbench bench --output`` wrote, or rows.

        Rows of another machine stand beside this one's and are never compared with them: their ``fingerprint`` tells
        them apart, ``machine`` says what it is. Merging twice changes nothing; a newer measurement of the same thing
        replaces an older one that was merged, and never what this study has timed itself.

        Raises
        ------
        StudyError
            If the file cannot be read, a row is none, is of another task, or no row is finished; nothing is taken then.

        Examples
        --------
        >>> print(study.merge("rows.jsonl"))  # doctest: +SKIP
        6 rows added, 0 replaced, 0 known already; measured on Neoverse-N1, 4 cores, 7,820 MiB, Linux (5c1f2a90b3de)
        """
        return merge_rows(self._store, self.name, self.task, rows)

    def export(
        self, output: str | Path, *, trial: str | None = None, quality_drop: float | None = None, trust: bool = False
    ) -> Path:
        """Write the winner into a folder that runs where there is no torch, and return the folder.

        It holds the artefact, ``engine.json`` (backend, batch, threads and precision that won; onnxruntime in place of
        a backend of torch), ``README.md`` (what it is, what was measured, how to run it, for which instruction sets it
        was made) and ``run.py``. An artefact that is no longer among the study's files is made again from its recipe.

        Parameters
        ----------
        output : path
            A folder that is new, empty, or an artefact, which is replaced; an edited ``run.py``, ``engine.json`` or
            ``README.md`` in it is overwritten, and a file of another name is refused.
        trial : str, optional
            The ``trial_key`` of a finished row, or its beginning; by default the row of :meth:`best`.
        quality_drop : float, optional
            As in :meth:`best`.
        trust : bool
            Allow a recipe that names a function to call (``Distill.student``) to be applied again.

        Raises
        ------
        StudyError
            If nothing met the goal, there is no such trial, the model has no ONNX file, or the row's files are of
            another model.
        ArtifactError
            If the folder holds something else or cannot be written.

        Examples
        --------
        >>> study.export("winner")  # doctest: +SKIP
        PosixPath('winner')
        """
        from workbench.study.bundle.bundle import hand_over

        rows = self._rows()
        best = self._best(rows, quality_drop)
        return hand_over(rows, best, output, files=self.files, trial=trial, task=self.task, trust=trust)

    def frame(self) -> pd.DataFrame:
        """Return :meth:`rows` as a frame, with every column of a row."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=list(COLUMNS))

    def pareto(self, x: str = LATENCY, y: str = "quality", *, batch_size: int | None = None) -> pd.DataFrame:
        """Return the rows that no other row beats in both columns, sorted by ``x``; all batch sizes by default."""
        import pandas as pd

        return pd.DataFrame(pareto_rows(self.rows(), x=x, y=y, batch_size=batch_size), columns=list(COLUMNS))

    def best(
        self,
        quality_drop: float | None = None,
        minimize: str | None = None,
        *,
        batch_size: int | None = None,
        shape: str | None = None,
    ) -> Recommendation:
        """Return the one row to take, or the nearest miss, with the reason in words.

        After a search, and without an argument, it is the row that answers the question of the search. After a run it
        is one of the engines and at the primary batch size of that run, as its report says.

        Parameters
        ----------
        quality_drop : float, optional
            Largest measured drop allowed, in the metric's units; that of the last run by default.
        minimize : str
            Column to make smallest among the rows within the limit; the latency by default.
        batch_size : int, optional
            Of the last run 32 or else the largest, by default.
        shape : str, optional
            As the rows' column holds it, such as ``"sequence=64"``; the one with most rows by default.
        """
        return self._best(self._rows(), quality_drop, minimize, batch_size, shape)

    def decisions(self) -> tuple[Decision, ...]:
        """Return what the default plan of the last run considered, predicted, measured, kept and dropped, in order.

        Empty if the last run was given its recipes.
        """
        found = last_decisions(self._store, self.name)
        return () if found is None else found.decisions

    def planned(self) -> tuple[str, ...]:
        """Return the recipe_id of every recipe in the default plan of the last run; empty if it was given recipes."""
        found = last_decisions(self._store, self.name)
        return () if found is None else found.recipe_ids

    def plot(self, kind: str = "tradeoff", **options: Any) -> Figure:
        """Draw a chart of the rows: tradeoff, throughput, memory or waterfall."""
        if kind not in PLOTS:
            raise StudyError(unknown_name("chart", kind, PLOTS))
        draw = getattr(importlib.import_module("workbench.plots"), f"plot_{kind}")
        figure: Figure = draw(self.rows(), **options)
        return figure

    def _rows(self) -> list[TrialRow]:
        return rows_of_task(self._store.load(self.name).values(), self.task.fingerprint)

    def _best(
        self,
        rows: list[TrialRow],
        quality_drop: float | None = None,
        minimize: str | None = None,
        batch_size: int | None = None,
        shape: str | None = None,
    ) -> Recommendation:
        searched = stored_question(self._store, self.name)
        if searched is not None and (quality_drop, minimize, batch_size, shape) == (None,) * 4:
            return recommend(rows, searched, machine=fingerprint_id())
        drop = self._store.accepted_drop(self.name, quality_drop)
        if (minimize, batch_size, shape) == (None,) * 3:
            rows, batch_size = last_run(self._store, self.name).among(rows)
        asked: dict[str, Any] = {"minimize": minimize or LATENCY, "batch_size": batch_size, "shape": shape}
        return best_row(rows, quality_drop=drop, machine=fingerprint_id(), **asked)
