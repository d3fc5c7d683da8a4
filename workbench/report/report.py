"""Report: what the report notebook calls, one method per piece of the page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.core.config import from_dict
from workbench.core.errors import WorkbenchError
from workbench.core.files import writable_folder
from workbench.core.machine import this_machine
from workbench.core.progress import ProgressCallback
from workbench.measure.resources.monitor import Monitor
from workbench.plots.drawing.figure import with_alt
from workbench.present import tables
from workbench.present.code import code_for, highlighted
from workbench.present.findings import Row, headline
from workbench.present.html import Html, details, style, text
from workbench.present.progress_log import Lines
from workbench.present.trials import write_trials
from workbench.report import sections
from workbench.report.settings import ReportSettings
from workbench.study.results.ranking import Recommendation, best_row, mark_recommended, table_order
from workbench.study.results.relative_latency import LATENCY, baseline_of
from workbench.study.results.schema import is_ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.study.execution.summary import RunSummary
    from workbench.study.study import Study
    from workbench.tasks.task import Task

TRIALS_FILE = "trials.jsonl"
DATABASE_FILE = "study.db"
_RATE_HZ = 2.0


class Report:
    """One report: opens the study, runs it within the budget, and gives each piece of the page.

    Keywords are those of :class:`ReportSettings`. A study that fails part of the way is remembered, so that the
    pieces show what was measured; :meth:`finish` then raises what went wrong.

    Examples
    --------
    >>> report = Report(task="digits", output_dir="reports/digits")  # doctest: +SKIP
    >>> report.run()                                                 # doctest: +SKIP
    >>> report.recommendation()                                      # doctest: +SKIP
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = from_dict(ReportSettings, settings)
        self.folder = writable_folder(self.settings.output_dir).resolve()
        self.summary: RunSummary | None = None
        self.failure: WorkbenchError | KeyboardInterrupt | None = None
        self.monitor = Monitor(rate_hz=_RATE_HZ)

    @cached_property
    def task(self) -> Task:
        """The task."""
        from workbench.tasks.load import load_task

        return load_task(self.settings.task)

    @cached_property
    def study(self) -> Study:
        """The study behind the report."""
        from workbench.study.study import Study

        return Study(self.task, storage=storage_url(self.settings, self.folder))

    def run(self, *, progress: ProgressCallback | None = None) -> None:
        """Run the study; trials that are complete from an earlier run are reused.

        An error or Ctrl-C is kept for :meth:`finish`, so that the pieces between show what is complete. Progress
        goes to standard error as lines unless ``progress`` takes it. ``trials.jsonl`` is written in any case.
        """
        told = progress or Lines(sys.stderr, started_at=self.settings.started_at)
        study = self.study
        try:
            self.summary = study.run(
                None,
                list(self.settings.backends) or None,
                self.settings.batch_sizes,
                threads=self.settings.threads or None,
                budget_s=self.settings.seconds_left(),
                quality_drop=self.settings.quality_drop,
                monitor=self.monitor,
                seed=self.settings.seed,
                baseline=self.settings.baseline,
                references=self.settings.references,
                progress=told,
            )
        except (WorkbenchError, KeyboardInterrupt) as error:
            self.failure = error
        finally:
            self._forget()
            self.save_trials()
        if isinstance(told, Lines):
            told.say(headline(self.best))

    @cached_property
    def _answer(self) -> tuple[list[Row], Recommendation]:
        known = self.study.planned()
        wanted = [
            row
            for row in self.study.rows()
            if (row["recipe_id"] in known or row["technique"] == "float")
            and row["batch_size"] in self.settings.batch_sizes
            and (not self.settings.backends or row["backend"] in self.settings.backends or _is_shown_anyway(row))
        ]
        best = self._best(wanted)
        return list(mark_recommended(wanted, best)), best

    def _best(self, rows: Sequence[Any]) -> Recommendation:
        judged = (r for r in rows if r["state"] == "complete" and r["quality_drop"] is not None and is_ranked(r))
        size = self.settings.batch_size if any(r["batch_size"] == self.settings.batch_size for r in judged) else None
        return best_row(rows, quality_drop=self.settings.quality_drop, batch_size=size)

    def _forget(self) -> None:
        self.__dict__.pop("_answer", None)

    @property
    def rows(self) -> list[Row]:
        """The rows of this report's plan, backends and batch sizes, at most one of them recommended."""
        return self._answer[0]

    @property
    def best(self) -> Recommendation:
        """The recommended row, or the nearest miss, with the reason."""
        return self._answer[1]

    @property
    def shown(self) -> Row | None:
        """The row that steps and code are shown for: the recommended one, else the nearest miss."""
        return next((r for r in self.rows if r["recommended"]), self.best.row)

    def save_trials(self) -> Path:
        """Write ``trials.jsonl``."""
        return write_trials(self.rows, self.folder / TRIALS_FILE)

    def header(self) -> Html:
        """Return the title with task, machine, date and versions, and the style that all pieces share."""
        training = f"{len(self.task.train):,}" if self.task.has_train else "none"
        facts = {"samples": f"{len(self.task.evaluation):,} for evaluation, {training} for training"}
        if self.task.reference and self.task.reference != self.task.name:
            facts["from"] = self.task.reference
        page = sections.header(facts, this_machine(), self.settings, name=self.task.name)
        return Html(f"<style>{style()}</style>{page}")

    def recommendation(self) -> Html:
        """Return the answer in words."""
        failed = f'<p class="failure">{text(self._what_stopped())}</p>' if self.failure else ""
        return Html(failed + sections.recommendation(self.best, self._baseline(), self.rows))

    def tradeoff(self) -> Figure:
        """Return the chart of latency against quality."""
        from workbench.plots import plot_tradeoff

        size, limit = self.settings.batch_size, self.settings.quality_drop
        return with_alt(plot_tradeoff(self.rows, batch_size=size, quality_drop=limit), headline(self.best))

    def tradeoff_table(self) -> Html:
        """Return the figures behind :meth:`tradeoff`, fastest first, reference rows under their baseline."""
        rows = self._at_batch(LATENCY)
        return Html(tables.table(tables.with_threads(tables.TRADEOFF, rows), rows))

    def throughput(self) -> Figure:
        """Return the chart of samples per second against batch size."""
        from workbench.plots import plot_throughput

        return plot_throughput(self.rows, batch_size=self.settings.batch_size)

    def throughput_table(self) -> Html:
        """Return samples per second for each recipe, backend and batch size."""
        return Html(tables.throughput_table([row for row in self.rows if row["state"] == "complete"]))

    def memory(self) -> Figure:
        """Return the charts of peak memory and of model size against quality."""
        from workbench.plots import plot_memory

        size, limit = self.settings.batch_size, self.settings.quality_drop
        return plot_memory(self.rows, batch_size=size, quality_drop=limit)

    def memory_table(self) -> Html:
        """Return the figures behind :meth:`memory`, leanest first."""
        rows = self._at_batch("peak_rss_mib")
        return Html(tables.table(tables.with_threads(tables.MEMORY_TABLE, rows), rows))

    def waterfall(self) -> Figure:
        """Return the chart of what each step gained and cost."""
        from workbench.plots import plot_waterfall

        return plot_waterfall(self.rows, batch_size=self.settings.batch_size, row=self.shown)

    def waterfall_table(self) -> Html:
        """Return the figures behind :meth:`waterfall`."""
        from workbench.plots import waterfall_data

        frame = waterfall_data(self.rows, batch_size=self.settings.batch_size, row=self.shown)
        return Html(tables.waterfall_table(frame))

    def trials_table(self) -> Html:
        """Return every trial with every figure."""
        sizes = sorted(
            {row["batch_size"] for row in self.rows}, key=lambda size: (size != self.settings.batch_size, size)
        )
        order = [r for size in sizes for r in table_order([r for r in self.rows if r["batch_size"] == size], LATENCY)]
        return Html(details(f"All {len(order)} trials", tables.table(tables.TRIALS, order), opened=len(order) <= 24))

    def resources(self) -> Figure:
        """Return the chart of what the run took over its time: processor, memory, and the GPU where there is one."""
        from workbench.plots import plot_monitor

        return plot_monitor(self.monitor)

    def coverage(self) -> Html:
        """Return which layers each step touched, folded."""
        return Html(sections.coverage(self.rows))

    def decisions(self) -> Html:
        """Return what the plan considered, predicted and measured, and why it went on or not."""
        return Html(sections.decisions(self.study.decisions(), begun=bool(self.rows)))

    def notes(self) -> Html:
        """Return what was cut, what failed, and what could not be measured."""
        if not self.rows:
            return Html('<p class="hint">Nothing ran.</p>')
        return Html(sections.notes(self.rows, self.summary.cut if self.summary else ()))

    def code(self) -> Html:
        """Return the Python code that makes the recommended point again."""
        if self.shown is None:
            return Html('<p class="hint">No trial has finished, so there is nothing to repeat.</p>')
        return Html(highlighted(code_for(self.shown, reference=self.task.reference)))

    def method(self) -> Html:
        """Return how the numbers were made."""
        return Html(sections.method())

    def finish(self) -> None:
        """Close the study, unless the panel still shows it; raises what stopped it, if anything did."""
        if not self.settings.interactive:
            self.study.close()
        if self.failure is not None:
            raise self.failure

    def _at_batch(self, column: str) -> list[Row]:
        rows = [r for r in self.rows if r["state"] == "complete" and r["batch_size"] == self.settings.batch_size]
        return table_order(rows, column)

    def _what_stopped(self) -> str:
        if isinstance(self.failure, KeyboardInterrupt):
            return "Stopped by Ctrl-C. Below is what was finished; the same command goes on from there."
        return str(self.failure)

    def _baseline(self) -> Mapping[str, Any] | None:
        rows = [row for row in self.rows if row["state"] == "complete"]
        if self.best.row is not None:
            return baseline_of(rows)(self.best.row)
        return next((row for row in rows if row["baseline"]), None)


def _is_shown_anyway(row: Row) -> bool:
    return bool(row["baseline"]) or row.get("reference") is not None


def storage_url(settings: ReportSettings, folder: Path) -> str:
    """Return the database of a report's study: the one asked for, else ``study.db`` in the output folder."""
    return settings.storage or f"sqlite:///{folder / DATABASE_FILE}"
