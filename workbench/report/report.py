"""The report of one task, with a method for each section of the page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import plots
from workbench.core.config import from_dict
from workbench.core.errors import WorkbenchError
from workbench.core.files import writable_folder
from workbench.core.machine import this_machine
from workbench.core.progress import ProgressCallback
from workbench.measure.resources.monitor import Monitor
from workbench.plots.drawing.figure import with_alt
from workbench.present import tables
from workbench.present.code import code_for, highlighted
from workbench.present.files import write_trials
from workbench.present.findings import Row, headline
from workbench.present.html import Html, details, escaped, hint, style
from workbench.present.terminal import ProgressLog
from workbench.report import sections
from workbench.report.settings import ReportSettings
from workbench.study.results.ranking import Recommendation, best_row, mark_recommended, table_order
from workbench.study.results.relative_latency import LATENCY, baseline_of
from workbench.study.results.schema import is_ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from workbench.study.execution.job import RunSummary
    from workbench.study.study import Study
    from workbench.tasks.task import Task

TRIALS_FILE = "trials.jsonl"
DATABASE_FILE = "study.db"
_RATE_HZ = 2.0


class Report:
    """Run a study within a time budget and return the sections of its page.

    Keywords are those of :class:`ReportSettings`. An error of the study is kept, so that the sections show the complete
    trials; :meth:`finish` raises it.

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
        """The study."""
        from workbench.study.study import Study

        return Study(self.task, storage=storage_url(self.settings, self.folder))

    def run(self, *, progress: ProgressCallback | None = None) -> None:
        """Run the study; complete trials of an earlier run are reused.

        An error or Ctrl-C is kept for :meth:`finish`. Progress is written to standard error unless ``progress`` is
        given. ``trials.jsonl`` is written in any case.
        """
        log = ProgressLog(sys.stderr, started_at=self.settings.started_at)
        study = self.study
        try:
            self.summary = study.run(config=self.settings.run_config, monitor=self.monitor, progress=progress or log)
        except (WorkbenchError, KeyboardInterrupt) as error:
            self.failure = error
        finally:
            self.__dict__.pop("_answer", None)
            self.save_trials()
        if progress is None:
            log.write(headline(self.best))

    @cached_property
    def _answer(self) -> tuple[list[Row], Recommendation]:
        planned, backends = self.study.planned(), self.settings.backends
        rows = [
            row
            for row in self.study.rows()
            if (row["recipe_id"] in planned or row["technique"] == "float")
            and row["batch_size"] in self.settings.batch_sizes
            and (not backends or row["backend"] in backends or row["baseline"] or row.get("reference") is not None)
        ]
        best = self._best(rows)
        return list(mark_recommended(rows, best)), best

    def _best(self, rows: Sequence[Any]) -> Recommendation:
        judged = (r for r in rows if r["state"] == "complete" and r["quality_drop"] is not None and is_ranked(r))
        size = self.settings.batch_size if any(r["batch_size"] == self.settings.batch_size for r in judged) else None
        return best_row(rows, quality_drop=self.settings.quality_drop, batch_size=size)

    @property
    def rows(self) -> list[Row]:
        """The rows of the plan at the report's backends and batch sizes, at most one of them recommended."""
        return self._answer[0]

    @property
    def best(self) -> Recommendation:
        """The recommended row, or the closest miss, with the reason."""
        return self._answer[1]

    @property
    def shown(self) -> Row | None:
        """The row whose steps and code are shown: the recommended one, else the closest miss."""
        return next((r for r in self.rows if r["recommended"]), self.best.row)

    def save_trials(self) -> Path:
        """Write ``trials.jsonl``."""
        return write_trials(self.rows, self.folder / TRIALS_FILE)

    def header(self) -> Html:
        """Return the title with task, machine, date and versions, and the style of all sections."""
        training = f"{len(self.task.train):,}" if self.task.has_train else "none"
        facts = {"samples": f"{len(self.task.evaluation):,} for evaluation, {training} for training"}
        if self.task.reference and self.task.reference != self.task.name:
            facts["from"] = self.task.reference
        page = sections.header(facts, this_machine(), self.settings, name=self.task.name)
        return Html(f"<style>{style()}</style>{page}")

    def recommendation(self) -> Html:
        """Return the recommendation in a box."""
        failed = f'<p class="failure">{escaped(self._failure_text())}</p>' if self.failure else ""
        return Html(failed + sections.recommendation(self.best, self._baseline(), self.rows))

    def tradeoff(self) -> Figure:
        """Return the chart of quality over latency."""
        size, limit = self.settings.batch_size, self.settings.quality_drop
        return with_alt(plots.plot_tradeoff(self.rows, batch_size=size, quality_drop=limit), headline(self.best))

    def tradeoff_table(self) -> Html:
        """Return the table of :meth:`tradeoff`, by latency, reference rows below their baseline."""
        rows = self._at_batch(LATENCY)
        return Html(tables.table(tables.with_threads(tables.TRADEOFF, rows), rows))

    def throughput(self) -> Figure:
        """Return the chart of throughput over batch size."""
        return plots.plot_throughput(self.rows, batch_size=self.settings.batch_size)

    def throughput_table(self) -> Html:
        """Return the table of :meth:`throughput`."""
        return Html(tables.throughput_table([row for row in self.rows if row["state"] == "complete"]))

    def memory(self) -> Figure:
        """Return the charts of quality over peak memory and over model size."""
        size, limit = self.settings.batch_size, self.settings.quality_drop
        return plots.plot_memory(self.rows, batch_size=size, quality_drop=limit)

    def memory_table(self) -> Html:
        """Return the table of :meth:`memory`, by peak memory."""
        rows = self._at_batch("peak_rss_mib")
        return Html(tables.table(tables.with_threads(tables.MEMORY_TABLE, rows), rows))

    def waterfall(self) -> Figure:
        """Return the chart of gains and costs by step."""
        return plots.plot_waterfall(self.rows, batch_size=self.settings.batch_size, row=self.shown)

    def waterfall_table(self) -> Html:
        """Return the table of :meth:`waterfall`."""
        frame = plots.waterfall_data(self.rows, batch_size=self.settings.batch_size, row=self.shown)
        return Html(tables.waterfall_table(frame))

    def trials_table(self) -> Html:
        """Return the table of all trials and figures, collapsed if it is long."""
        first, sizes = self.settings.batch_size, {row["batch_size"] for row in self.rows}
        order: list[Row] = []
        for size in sorted(sizes, key=lambda size: (size != first, size)):
            order += table_order([row for row in self.rows if row["batch_size"] == size], LATENCY)
        return Html(details(f"All {len(order)} trials", tables.table(tables.TRIALS, order), opened=len(order) <= 24))

    def resources(self) -> Figure:
        """Return the chart of CPU, memory and GPU over the run."""
        return plots.plot_monitor(self.monitor)

    def coverage(self) -> Html:
        """Return the layers that each step changed, collapsed."""
        return Html(sections.coverage(self.rows))

    def decisions(self) -> Html:
        """Return the decisions of the plan with predictions and measurements."""
        return Html(sections.decisions(self.study.decisions(), begun=bool(self.rows)))

    def notes(self) -> Html:
        """Return skipped trials, failed trials and missing figures."""
        if not self.rows:
            return Html(hint("No trial was run."))
        return Html(sections.notes(self.rows, self.summary.cut if self.summary else ()))

    def code(self) -> Html:
        """Return the Python code that reproduces the recommended variant."""
        if self.shown is None:
            return Html(hint("No trial has finished, so there is no variant to reproduce."))
        return Html(highlighted(code_for(self.shown, reference=self.task.reference)))

    def method(self) -> Html:
        """Return the measurement method."""
        return Html(sections.method())

    def finish(self) -> None:
        """Close the study unless the panel uses it; raise the error that stopped it, if any."""
        if not self.settings.interactive:
            self.study.close()
        if self.failure is not None:
            raise self.failure

    def _at_batch(self, column: str) -> list[Row]:
        rows = [r for r in self.rows if r["state"] == "complete" and r["batch_size"] == self.settings.batch_size]
        return table_order(rows, column)

    def _failure_text(self) -> str:
        if isinstance(self.failure, KeyboardInterrupt):
            return "Stopped by Ctrl-C. Finished trials are below; run the same command again to continue."
        return str(self.failure)

    def _baseline(self) -> Mapping[str, Any] | None:
        rows = [row for row in self.rows if row["state"] == "complete"]
        if self.best.row is not None:
            return baseline_of(rows)(self.best.row)
        return next((row for row in rows if row["baseline"]), None)


def storage_url(settings: ReportSettings, folder: Path) -> str:
    """Return the database URL of a report's study, by default ``study.db`` in the output folder."""
    return settings.storage or f"sqlite:///{folder / DATABASE_FILE}"
