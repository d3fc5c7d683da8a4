"""A study's rows as a table of plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.report.tables import BACKEND, BATCH, LATENCY, MEMORY, QUALITY, RECIPE, SIZE, SPEEDUP, STATE, VERDICT
from workbench.report.words import Row, headline
from workbench.study.answers import Best

COLUMNS = (RECIPE, BACKEND, BATCH, STATE, LATENCY, SPEEDUP, VERDICT, QUALITY, MEMORY, SIZE)


def rows_text(rows: Sequence[Row], best: Best) -> str:
    """Return the answer in a sentence, and below it a line for each trial with the recommended one starred."""
    heads = ["", *(f"{c.head}, {c.unit.split(',')[0]}" if c.unit and not c.words else c.head for c in COLUMNS)]
    table = [heads] + [["*" if row.get("recommended") else "", *(c.figure(row) for c in COLUMNS)] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    left = [True, *(column.words for column in COLUMNS)]
    lines = [
        "  ".join(
            cell.ljust(w) if to_left else cell.rjust(w) for cell, w, to_left in zip(line, widths, left, strict=True)
        )
        for line in table
    ]
    return "\n".join([headline(best), best.reason, "", *(line.rstrip() for line in lines)])
