"""The baseline-normalized latency, by which rows are shown, ranked and compared, and the break-even by it.

Machines drift between rows that are timed minutes apart. Each row is timed interleaved with its baseline, so the
latency of the baseline's own row divided by the speedup removes that drift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

Row = Mapping[str, Any]
_Row = TypeVar("_Row", bound=Mapping[str, Any])

LATENCY = "latency_ms_rel"
COLUMNS = (LATENCY, "latency_ms_rel_low", "latency_ms_rel_high")
_NO_BASELINE = "The baseline row is missing, so this is latency_ms_p50."
_NO_SPEEDUP = "The speedup was not measured, so this is latency_ms_p50."


class RelativeLatency(NamedTuple):
    """The baseline-normalized latency of a row in ms with its 95 % CI; ``note`` explains another figure."""

    ms: float | None
    low: float | None
    high: float | None
    note: str = ""


def relative_latency(row: Row, base: Row | None) -> RelativeLatency:
    """Return the baseline-normalized latency of a row; ``base`` is the row of its baseline.

    It is the baseline's ``latency_ms_p50`` over the row's speedup, with the 95 % CI of the speedup. For the baseline,
    and for a row without baseline or speedup, it is ``latency_ms_p50``.

    Examples
    --------
    >>> base = {"baseline": True, "latency_ms_p50": 20.0}
    >>> row = {"latency_ms_p50": 5.5, "speedup": 4.0, "speedup_low": 3.2, "speedup_high": 5.0}
    >>> relative_latency(row, base)[:3]
    (5.0, 4.0, 6.25)
    """
    measured = _columns(row, ("latency_ms_p50", "latency_ms_low", "latency_ms_high"))
    if row.get("baseline") or measured.ms is None:
        return measured
    base_ms = None if base is None else _number(base.get("latency_ms_p50"))
    if not base_ms:
        return measured._replace(note=_NO_BASELINE)
    ratio, low, high = (_number(row.get(name)) for name in ("speedup", "speedup_low", "speedup_high"))
    if not ratio:
        return measured._replace(note=_NO_SPEEDUP)
    return RelativeLatency(base_ms / ratio, base_ms / high if high else None, base_ms / low if low else None)


def relative_latencies(rows: Sequence[Row]) -> list[RelativeLatency]:
    """Return the baseline-normalized latency of each row; a row that has the columns already keeps them."""
    base = baseline_of(rows)
    return [
        relative_latency(row, base(row)) if _number(row.get(LATENCY)) is None else _columns(row, COLUMNS)
        for row in rows
    ]


def with_relative_latency(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return copies of rows with the columns :data:`COLUMNS`, and a note if a figure is not normalized."""
    filled = []
    for row, latency in zip(rows, relative_latencies(rows), strict=True):
        notes = {**(row.get("notes") or {}), **({LATENCY: latency.note} if latency.note else {})}
        filled.append({**row, **dict(zip(COLUMNS, latency[:3], strict=True)), "notes": notes})
    return filled


def column_values(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the values of a column; those of :data:`COLUMNS` are computed if rows lack them."""
    if column in COLUMNS:
        return [latency[COLUMNS.index(column)] for latency in relative_latencies(rows)]
    return [row.get(column) for row in rows]


def baseline_of(rows: Sequence[_Row]) -> Callable[[_Row], _Row | None]:
    """Return a function that finds the baseline of a row: the one that ``baseline_key`` names.

    If it names none of ``rows``, it is the baseline of the same operating point and machine, preferably with as many
    threads.
    """
    baselines = [row for row in rows if row.get("baseline")]
    by_key = {row.get("trial_key"): row for row in baselines}
    by_threads = {(_place(row), row.get("threads")): row for row in baselines}
    by_place = {_place(row): row for row in baselines}

    def baseline(row: _Row) -> _Row | None:
        near = by_threads.get((_place(row), row.get("threads")), by_place.get(_place(row)))
        key = row.get("baseline_key")
        return by_key.get(key, near) if key else near

    return baseline


def _place(row: Row) -> tuple[Any, ...]:
    return row.get("batch_size"), row.get("shape"), row.get("fingerprint")


def _columns(row: Row, names: tuple[str, str, str]) -> RelativeLatency:
    ms, low, high = (_number(row.get(name)) for name in names)
    return RelativeLatency(ms, low, high)


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


@dataclass(frozen=True)
class BreakEven:
    """The numbers of ``calls`` and ``samples`` after which the preparation of a variant has paid off.

    ``spent_s`` are the seconds of training, calibration and export; steps from the prefix cache count with their
    original time. ``saved_ms`` are saved per call against the baseline, by the baseline-normalized latency.
    """

    spent_s: float
    saved_ms: float
    calls: float
    samples: float


def break_even(row: Mapping[str, Any]) -> BreakEven | None:
    """Return the break-even of a finished row, None if it has no decided speedup or was not measured.

    Only the preparation of this row counts, not that of other variants.

    Examples
    --------
    >>> row = {"latency_ms_rel": 2.0, "speedup": 5.0, "prepare_s": 80.0, "batch_size": 32, "verdict": "faster"}
    >>> break_even(row).samples
    320000.0
    """
    latency, ratio, prepared = (row.get(name) for name in ("latency_ms_rel", "speedup", "prepare_s"))
    if row.get("baseline") or row.get("verdict") != "faster" or not latency or not ratio or prepared is None:
        return None
    spent = max(prepared, sum(step.get("seconds") or 0.0 for step in row.get("steps") or ()))
    saved = latency * (ratio - 1)
    calls = 1e3 * spent / saved
    return BreakEven(float(spent), saved, calls, calls * row["batch_size"])
