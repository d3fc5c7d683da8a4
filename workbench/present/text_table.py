"""A study's rows as a table of plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    with_threads,
)
from workbench.study.results.ranking import Recommendation, references_placed

_SPEEDUP = replace(SPEEDUP, figure=lambda row: " ".join(filter(None, (SPEEDUP.figure(row), SPEEDUP.beside(row)))))
COLUMNS = (RECIPE, BACKEND, BATCH, STATE, LATENCY, _SPEEDUP, VERDICT, QUALITY, MEMORY, SIZE)
BENCH = (BACKEND, BATCH, STATE, TIMED, P90, THROUGHPUT, MEMORY, SIZE, *COLD)
_TOLD = ("latency_ms_p50", "backend", "failed")


def rows_text(rows: Sequence[Row], best: Recommendation) -> str:
    """Return the answer in a sentence, and below it a line for each trial with the recommended one starred."""
    several = len({row["fingerprint"] for row in rows}) > 1
    columns = with_threads((*COLUMNS, MACHINE) if several else COLUMNS, rows)
    lines = _lines(columns, references_placed(rows))
    return "\n".join([headline(best), best.reason, "", *lines])


def bench_text(rows: Sequence[Row]) -> str:
    """Return what was timed of one artefact, on which machine, and what must be known of the figures."""
    first = rows[0]
    head = f"{first['recipe']} of task {first['task']} on {first['machine']} ({first['fingerprint']})"
    threads = f"{first['threads']} thread{'s' if first['threads'] > 1 else ''} each"
    told = [f"{', '.join(where)}: {why}" for column, why, where in notes_by_reason(rows) if column in _TOLD]
    return "\n".join([f"{head}, {threads}", "", *_lines(BENCH, rows), *([""] if told else []), *told])


def _lines(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    if any(row.get("shape") for row in rows):
        place = columns.index(BATCH) + 1
        columns = (*columns[:place], SHAPE, *columns[place:])
    heads = ["", *(f"{c.head}, {c.unit.split(',')[0]}" if c.unit and not c.words else c.head for c in columns)]
    table = [heads] + [["*" if row.get("recommended") else "", *(c.figure(row) for c in columns)] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    left = [True, *(column.words for column in columns)]
    lines = [
        "  ".join(
            cell.ljust(w) if to_left else cell.rjust(w) for cell, w, to_left in zip(line, widths, left, strict=True)
        )
        for line in table
    ]
    return [line.rstrip() for line in lines]
