"""A study's rows as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from workbench.core.format.numbers import plural, text_table
from workbench.present.findings import Row, headline, notes_by_reason
from workbench.present.tables import (
    BACKEND,
    BATCH,
    COLD,
    LATENCY,
    MACHINE,
    MEMORY,
    P90,
    QUALITY,
    RECIPE,
    SHAPE,
    SIZE,
    SPEEDUP,
    STATE,
    THROUGHPUT,
    TIMED,
    VERDICT,
    Column,
    with_column,
    with_threads,
)
from workbench.study.results.ranking import Recommendation, references_placed

_SPEEDUP = replace(SPEEDUP, figure=lambda row: " ".join(filter(None, (SPEEDUP.figure(row), SPEEDUP.detail(row)))))
COLUMNS = (RECIPE, BACKEND, BATCH, STATE, LATENCY, _SPEEDUP, VERDICT, QUALITY, MEMORY, SIZE)
BENCH = (BACKEND, BATCH, STATE, TIMED, P90, THROUGHPUT, MEMORY, SIZE, *COLD)
_SHOWN_NOTES = ("latency_ms_p50", "backend", "failed")


def rows_text(rows: Sequence[Row], best: Recommendation) -> str:
    """Return the recommendation, and below it a line for each trial, the recommended one starred."""
    several = len({row["fingerprint"] for row in rows}) > 1
    columns = with_threads((*COLUMNS, MACHINE) if several else COLUMNS, rows)
    return "\n".join([headline(best), best.reason, "", *_lines(columns, references_placed(rows))])


def bench_text(rows: Sequence[Row]) -> str:
    """Return the timings of one artifact, its machine, and the notes on its figures."""
    first = rows[0]
    head = f"{first['recipe']} of task {first['task']} on {first['machine']} ({first['fingerprint']})"
    head += f", {plural(first['threads'], 'thread')} each"
    notes = [f"{', '.join(trials)}: {why}" for column, why, trials in notes_by_reason(rows) if column in _SHOWN_NOTES]
    return "\n".join([head, "", *_lines(BENCH, rows), *([""] if notes else []), *notes])


def _lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    if any(row.get("shape") for row in rows):
        columns = with_column(columns, SHAPE, after=BATCH)
    heads = ["", *(f"{c.head}, {c.unit.split(',')[0]}" if c.unit and not c.is_text else c.head for c in columns)]
    cells = [["*" if row.get("recommended") else "", *(c.figure(row) for c in columns)] for row in rows]
    return text_table(heads, cells, right={i for i, column in enumerate(columns, 1) if not column.is_text})
