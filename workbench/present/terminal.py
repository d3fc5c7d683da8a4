"""Text for terminals and logs: progress, and a study's rows as tables."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TextIO

from workbench.core.format.numbers import plural, text_table
from workbench.core.progress import Progress
from workbench.present.findings import Row, headline, notes_by_reason
from workbench.present.tables import BENCH, SPEEDUP, TERMINAL, Column, with_shape_and_machine, with_threads
from workbench.study.results.ranking import Recommendation, references_placed

QUIET_S = 5.0


class ProgressLog:
    """A progress callback that writes ``[ 12 s] 3/54 message``, at most every five seconds.

    The end of a trial is always written. Seconds count from ``started_at`` (since 1970), or from now.
    """

    def __init__(self, stream: TextIO, *, every_s: float = QUIET_S, started_at: float = 0.0) -> None:
        self._stream, self._every_s = stream, every_s
        self._start = time.monotonic() - (time.time() - started_at if started_at else 0.0)
        self._last_s, self._last_message = float("-inf"), ""

    def __call__(self, event: Progress) -> None:
        now = time.monotonic()
        message = event.message or event.stage
        row = event.values.get("row")
        ended = isinstance(row, dict) and row.get("state") in ("complete", "pruned", "failed")
        if message == self._last_message or (now - self._last_s < self._every_s and not ended):
            return
        self._last_s, self._last_message = now, message
        done = f"{int(event.done)}/{int(event.total)} " if event.total >= 1 else ""
        self.write(f"{done}{message}")

    def write(self, text: str) -> None:
        """Write one line with the time since the start."""
        with contextlib.suppress(BrokenPipeError):  # the reader is gone; the work continues
            self._stream.write(f"[{time.monotonic() - self._start:4.0f} s] {text}\n")
            self._stream.flush()


_SHOWN_NOTES = ("latency_ms_p50", "backend", "failed")


def rows_text(rows: Sequence[Row], best: Recommendation) -> str:
    """Return the recommendation, and below it a line for each trial, the recommended one starred."""
    lines = _lines(with_threads(TERMINAL, rows), references_placed(rows))
    return "\n".join([headline(best), best.reason, "", *lines])


def bench_text(rows: Sequence[Row]) -> str:
    """Return the timings of one artifact, its machine, and the notes on its figures."""
    first = rows[0]
    head = f"{first['recipe']} of task {first['task']} on {first['machine']} ({first['fingerprint']})"
    head += f", {plural(first['threads'], 'thread')} each"
    notes = [f"{', '.join(trials)}: {why}" for column, why, trials in notes_by_reason(rows) if column in _SHOWN_NOTES]
    return "\n".join([head, "", *_lines(BENCH, rows), *([""] if notes else []), *notes])


def _lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    columns = with_shape_and_machine(columns, rows)
    heads = ["", *(f"{c.head}, {c.unit.split(',')[0]}" if c.unit and not c.is_text else c.head for c in columns)]
    cells = [["*" if row.get("recommended") else "", *(_figure(c, row) for c in columns)] for row in rows]
    return text_table(heads, cells, right={i for i, column in enumerate(columns, 1) if not column.is_text})


def _figure(column: Column, row: Row) -> str:
    """Return the figure of a cell, with the interval of a speedup."""
    return f"{column.figure(row)} {column.detail(row) if column is SPEEDUP else ''}".rstrip()
