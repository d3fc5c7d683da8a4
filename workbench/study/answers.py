"""Answers from the rows of a study: which one to take, and which ones nothing else beats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from workbench.core.errors import StudyError, unknown_name
from workbench.study.rows import NUMERIC, TrialRow, row_engine

_Row = TypeVar("_Row", bound=Mapping[str, Any])
_DRIFT = 0.5
HIGHER_IS_BETTER = frozenset({"quality", "agreement", "throughput_per_s", "speedup", "speedup_low", "speedup_high"})


@dataclass(frozen=True)
class Best:
    """The answer of :meth:`Study.best`.

    ``row`` is the row to take: the fastest within the limit when ``met`` is True, else the nearest miss, or None
    while no trial has finished. ``reason`` says in words why; ``candidates`` counts the rows that were compared.
    """

    row: TrialRow | None
    met: bool
    reason: str
    candidates: int

    def __repr__(self) -> str:
        return f"Best({self.reason})"


def best_row(
    rows: Sequence[TrialRow],
    *,
    quality_drop: float = 0.01,
    minimise: str = "latency_ms_p50",
    batch_size: int | None = None,
    shape: str | None = None,
    machine: str | None = None,
) -> Best:
    """Return exactly one recommended row, or the nearest miss, or the plain word that there is none yet.

    Parameters
    ----------
    rows : sequence of TrialRow
        All rows of a study; only complete ones of one machine take part.
    quality_drop : float
        Largest measured drop of quality allowed, in the metric's units.
    minimise : str
        Numeric column to make smallest among the rows within the limit; see :func:`comparable` for latencies.
    batch_size : int, optional
        Batch size asked; by default 32 where it was measured with a quality, else the largest that was.
    shape : str, optional
        Shape asked, as the rows' column holds it; by default the one most rows of that batch size have, of equals the
        first.
    machine : str, optional
        Preferred machine ``fingerprint``; where it has no complete row, the machine with most rows is taken.

    Raises
    ------
    StudyError
        For an unknown column, a negative limit, or a batch size that was not measured.
    """
    check_question(quality_drop=quality_drop, minimise=minimise)
    complete = [r for r in rows if r["state"] == "complete"]
    if not complete:
        return Best(None, False, "No trial has finished yet.", 0)
    # what cannot be judged, such as the rows of a bench, decides nothing: neither machine nor batch size nor shape
    judged, other = one_machine([r for r in complete if _judged(r, minimise)] or complete, machine)
    complete = [r for r in complete if r.get("fingerprint") == judged[0].get("fingerprint")]
    batch_size = _batch_size(complete, judged, batch_size)
    same_batch, judged = ([r for r in part if r["batch_size"] == batch_size] for part in (complete, judged))
    shape = _shape(same_batch, judged, shape)
    asked = f"batch {batch_size}" + (f", {shape}" if shape else "")
    rivals = [
        r
        for r in ranked(complete, minimise)
        if r["batch_size"] == batch_size and (r.get("shape") or "") == shape and _judged(r, minimise)
    ]
    if not rivals:
        return Best(None, False, f"No finished trial at {asked} has both a quality and {minimise}.", 0)
    within = [r for r in rivals if _drop(r) <= quality_drop]
    if within:
        row = within[0]
        reason = _why(within, rivals, quality_drop, minimise, asked)
    else:
        row = min(rivals, key=lambda r: (_drop(r), _number(r, minimise)))
        reason = (
            f"Nothing met the goal: none of the {len(rivals)} finished variants at {asked} loses at most "
            f"{quality_drop:g} of quality. The nearest miss loses {_drop(row):.4g}{interval_words(row)}."
        )
    return Best(row, bool(within), reason + other, len(rivals))


def pareto_rows(rows: Iterable[TrialRow], *, x: str, y: str, batch_size: int | None = None) -> list[TrialRow]:
    """Return the complete rows that no other row beats in both columns, sorted by ``x``.

    Throughput, speed-up and quality are better when higher, everything else when lower; see :func:`comparable` for
    latencies. Equal rows all stay. Rows of two machines or shapes are never compared: each
    stands against those of its own.
    """
    for column in (x, y):
        _check_column(column)
    known = [
        r
        for r in rows
        if r["state"] == "complete"
        and r.get(x) is not None
        and r.get(y) is not None
        and (batch_size is None or r["batch_size"] == batch_size)
    ]
    costs = [*zip(known, _costs(known, x), _costs(known, y), strict=True)]
    front = [
        row
        for row, a, b in costs
        if not any(
            (c <= a and d <= b) and (c < a or d < b)
            for rival, c, d in costs
            if rival["fingerprint"] == row["fingerprint"] and rival["shape"] == row["shape"]
        )
    ]
    return sorted(front, key=lambda r: _number(r, x))


def comparable(rows: Sequence[Mapping[str, Any]], column: str) -> list[float | None]:
    """Return a column's values as they can be compared between rows.

    The machine's pace drifts between two rows that were timed minutes apart, and each was timed in turns with the
    baseline. So ``latency_ms_p50`` becomes the baseline's latency at that batch size divided by the lower end of the
    row's speed-up, which is certain. A machine's pace does not drift twofold: where that is less than half of what was
    measured, something slowed the baseline alone, and half of the measured latency stands in its place. Where either
    is unknown, and for other columns, it is what was measured.
    """
    values = [row.get(column) for row in rows]
    if column != "latency_ms_p50":
        return values
    base = baseline_of(rows)
    places = [None if (one := base(row)) is None else one.get(column) for row in rows]
    return [
        max(place / row["speedup_low"], _DRIFT * value)
        if value and place and row.get("speedup_low") and not row.get("baseline")
        else value
        for row, value, place in zip(rows, values, places, strict=True)
    ]


def baseline_of(rows: Sequence[_Row]) -> Callable[[_Row], _Row | None]:
    """Return what finds the baseline of a row: the one it was timed in turns with, as far as its row tells.

    A study may hold baselines on several numbers of threads. Rows of older versions do not name theirs: of those it is
    the one on as many threads.
    """
    found = [row for row in rows if row.get("baseline")]
    by_key = {row.get("trial_key"): row for row in found}
    by_threads = {(_place(row), row.get("threads")): row for row in found}
    by_place = {_place(row): row for row in found}

    def baseline(row: _Row) -> _Row | None:
        near = by_threads.get((_place(row), row.get("threads")), by_place.get(_place(row)))
        named = row.get("baseline_key")
        return by_key.get(named, near) if named else near

    return baseline


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["batch_size"], row.get("shape") or "", row.get("fingerprint")


def ranked(rows: Sequence[_Row], column: str) -> list[_Row]:
    """Return rows sorted by :func:`comparable`, of equal ones that with the smaller drop first, unknown ones last."""

    def known(value: float | None) -> tuple[bool, float]:
        return value is None, value or 0.0

    pairs = zip(comparable(rows, column), rows, strict=True)
    return [row for _, row in sorted(pairs, key=lambda pair: (known(pair[0]), known(pair[1]["quality_drop"])))]


def check_question(*, quality_drop: float, minimise: str) -> None:
    """Refuse a question that has no answer, before any work starts."""
    if not isinstance(quality_drop, int | float) or not math.isfinite(quality_drop) or quality_drop < 0:
        raise StudyError(f"quality_drop must be a number of at least 0 in the metric's units, got {quality_drop!r}.")
    _check_column(minimise)
    if minimise in HIGHER_IS_BETTER:
        raise StudyError(f"{minimise} is better when higher, so it cannot be minimised. Try 'latency_ms_p50'.")


def _check_column(name: str) -> None:
    if name not in NUMERIC:
        raise StudyError(unknown_name("numeric column", name, NUMERIC))


def one_machine(rows: Sequence[_Row], machine: str | None) -> tuple[list[_Row], str]:
    """Timings of two machines are never compared: return the rows of one, and a sentence where it is not this one.

    ``machine`` is the fingerprint that is preferred; where it has no row, the machine with most rows is taken.
    """
    counts: dict[Any, int] = {}
    for row in rows:
        name = row.get("fingerprint")
        counts[name] = counts.get(name, 0) + 1
    if not counts:
        return [], ""
    chosen = machine if machine in counts else max(counts, key=lambda name: counts[name])
    kept = [r for r in rows if r.get("fingerprint") == chosen]
    words = f"{kept[0]['machine']}, {chosen}" if kept[0].get("machine") else chosen
    return kept, "" if machine in (None, chosen) else f" These rows were measured on another machine ({words})."


def _judged(row: TrialRow, minimise: str) -> bool:
    return row["quality_drop"] is not None and row.get(minimise) is not None


def _batch_size(complete: list[TrialRow], judged: list[TrialRow], asked: int | None) -> int:
    if asked is None:
        sizes = {r["batch_size"] for r in judged}
        return 32 if 32 in sizes else max(sizes)
    measured = sorted({r["batch_size"] for r in complete})
    if asked not in measured:
        raise StudyError(f"No trial has finished at batch size {asked}. Measured: {', '.join(map(str, measured))}.")
    return asked


def usual_shape(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the shape that most rows have, of equals the first; empty where there are no rows."""
    counts = Counter(row.get("shape") or "" for row in rows)
    return max(counts, key=lambda name: counts[name], default="")


def _shape(rows: list[TrialRow], judged: list[TrialRow], asked: str | None) -> str:
    counts = dict.fromkeys(row.get("shape") or "" for row in rows)
    if asked is None:
        return usual_shape(judged or rows)
    if asked not in counts:
        raise StudyError(f"No trial has finished at the shape {asked!r}. Measured: {', '.join(map(repr, counts))}.")
    return asked


def _why(within: list[TrialRow], rivals: list[TrialRow], limit: float, minimise: str, asked: str) -> str:
    """Say why the first of ``within``, which are ranked, is the one to take."""
    row = within[0]
    words = "fastest" if minimise == "latency_ms_p50" else f"smallest {minimise}"
    text = (
        f"{row['recipe']} on {row_engine(row)}: the {words} of {len(within)} variants within a drop of {limit:g} "
        f"({len(rivals)} compared, {asked}): "
    )
    return text + evidence(within, limit)


def evidence(within: Sequence[TrialRow], limit: float) -> str:
    """Return what speaks for the first of ``within``, which are ranked and lose at most ``limit``, and what to mind."""
    row = within[0]
    text = f"drop {_drop(row):.4g}{interval_words(row)}"
    if row["speedup"] is not None and not row["baseline"]:
        text += f", {row['speedup']:.2f}x against the baseline"
        if row["speedup_low"] is not None and row["speedup_high"] is not None:
            text += f" (95 % interval {row['speedup_low']:.2f} to {row['speedup_high']:.2f}; {row['verdict']})"
    text += "."
    if row["verdict"] == "undecided" and row["notes"].get("verdict"):
        text += f" {row['notes']['verdict']}"
    if row["baseline"]:
        text += " It is the baseline itself: nothing within the limit beats it."
    high = row["quality_drop_high"]
    if high is not None and high > limit:
        text += f" The interval of the drop reaches {high:.4g}, beyond the limit: measure on more data to be sure."
        sure = (r for r in within if r["quality_drop_high"] is not None and r["quality_drop_high"] <= limit)
        safe = next(sure, None)
        if safe is not None and not safe["baseline"]:
            text += f" Within the limit by its whole interval: {safe['recipe']} on {row_engine(safe)}"
            text += f", {safe['speedup']:.2f}x." if safe["speedup"] is not None else "."
    return text


def interval_words(row: TrialRow) -> str:
    """Return the interval of a row's drop in brackets, or nothing where there is none."""
    low, high = row["quality_drop_low"], row["quality_drop_high"]
    return "" if low is None or high is None else f" (95 % interval {low:.4g} to {high:.4g})"


def _drop(row: TrialRow) -> float:
    return _number(row, "quality_drop")


def _number(row: TrialRow, column: str) -> float:
    return float(row[column])  # type: ignore[literal-required]


def _costs(rows: Sequence[TrialRow], column: str) -> list[float]:
    sign = -1.0 if column in HIGHER_IS_BETTER else 1.0
    return [sign * float(value or 0.0) for value in comparable(rows, column)]


def mark_recommended(rows: list[TrialRow], best: Best) -> list[TrialRow]:
    """Return ``rows`` with ``recommended`` true on the row of ``best`` where the goal was met, and on no other."""
    chosen: Any = best.row if best.met else None
    return [{**row, "recommended": row is chosen} for row in rows]


def marked(rows: Sequence[Mapping[str, Any]]) -> Best:
    """Return the answer that rows carry already, as :func:`mark_recommended` left it there."""
    chosen: Any = next((row for row in rows if row.get("recommended")), None)
    reason = "Its row is marked." if chosen is not None else "Nothing met the goal: no row is recommended."
    return Best(chosen, chosen is not None, reason, len(rows))
