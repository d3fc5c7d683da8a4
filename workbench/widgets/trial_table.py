"""The table of trials, in the report's columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from workbench.core.format.numbers import shortened
from workbench.present import tables
from workbench.present.findings import Row
from workbench.study.results.ranking import table_order
from workbench.study.results.relative_latency import LATENCY

_ORDER = {"complete": 0, "running": 1, "waiting": 2, "pruned": 3, "failed": 4, "cancelled": 5}


def _reason(row: Row) -> str:
    return shortened(str(row.get("error") or (row.get("notes") or {}).get("state") or ""), 140)


COLUMNS = (
    *(tables.RECIPE, tables.BACKEND, tables.BATCH, tables.LATENCY, tables.SPEEDUP, tables.VERDICT, tables.QUALITY),
    *(tables.DROP, tables.MEMORY, tables.SIZE, dataclasses.replace(tables.STATE, detail=_reason)),
)


def table_html(rows: Sequence[Row], *, batch_size: int | None = None) -> str:
    """Return the HTML table of ``rows``, or of those at one batch size.

    The recommended row comes first, then finished rows by latency, then the rest by state.
    """
    shown = [row for row in rows if batch_size is None or row["batch_size"] == batch_size]
    at = "" if batch_size is None else f" at batch size {batch_size}"
    columns = tables.with_threads(COLUMNS, shown)
    return tables.table(columns, sorted(table_order(shown, LATENCY), key=_sort_key), empty=f"No trials{at} yet.")


def _sort_key(row: Row) -> tuple[bool, int]:
    return not row.get("recommended"), _ORDER.get(row["state"], len(_ORDER))
