"""Rank the rows of a study: the recommended row, the Pareto front, and the order of a table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from workbench.core.errors import StudyError, unknown_name
from workbench.core.format.speedup import row_speedup
from workbench.study.config import QUALITY_DROP, primary_batch
from workbench.study.results.quality_limits import may_exceed, within_limit
from workbench.study.results.relative_latency import LATENCY, baseline_of, column_values
from workbench.study.results.schema import NUMERIC, TrialRow, is_ranked, row_engine
from workbench.study.results.winner import Winner, winner_of

_Row = TypeVar("_Row", bound=Mapping[str, Any])
HIGHER_IS_BETTER = frozenset({"quality", "agreement", "throughput_per_s", "speedup", "speedup_low", "speedup_high"})


@dataclass(frozen=True)
class Recommendation:
    """The result of :meth:`Study.best`.

    ``row`` is the recommended row if ``met`` is True, else the nearest miss, or None if no trial has finished.
    ``reason`` is a sentence with the evidence, ``candidates`` the number of compared rows. ``ties`` holds the rows
    within the limit that are tied with ``row`` in latency.
    """

    row: TrialRow | None
    met: bool
    reason: str
    candidates: int
    ties: tuple[TrialRow, ...] = ()

    def __repr__(self) -> str:
        return f"Recommendation({self.reason})"


def best_row(
    rows: Sequence[TrialRow],
    *,
    quality_drop: float = QUALITY_DROP,
    minimize: str = LATENCY,
    batch_size: int | None = None,
    shape: str | None = None,
    machine: str | None = None,
) -> Recommendation:
    """Return one recommended row, or the nearest miss, or the reason why there is none.

    Only complete rows of one machine take part, without references and rows of a survey. See
    :func:`~workbench.study.results.winner.winner_of` for head-to-head timing and ties.

    ``quality_drop`` is the largest drop allowed, in the metric's units, and ``minimize`` a numeric column. The default
    of ``batch_size`` is 32 if it was measured with a quality, else the largest that was; that of ``shape`` has most
    rows at this batch size, of equals it is the first. ``machine`` is a preferred fingerprint; if it has no complete
    row, the machine with most rows is taken. StudyError is raised for an unknown column, a negative limit, or a batch
    size or shape that was not measured.
    """
    check_question(quality_drop=quality_drop, minimize=minimize)
    complete = [r for r in rows if r["state"] == "complete" and is_ranked(r)]
    if not complete:
        surveyed = any(r["state"] == "complete" and r.get("reference") is None for r in rows)
        missing = "No trial has finished at full fidelity yet." if surveyed else "No trial has finished yet."
        return Recommendation(None, False, missing, 0)
    # rows without a quality, such as those of a bench, choose neither machine nor batch size nor shape
    judged, other = one_machine([r for r in complete if _judged(r, minimize)] or complete, machine)
    complete = [r for r in complete if r.get("fingerprint") == judged[0].get("fingerprint")]
    batch_size = _batch_size(complete, judged, batch_size)
    same_batch, judged = ([r for r in part if r["batch_size"] == batch_size] for part in (complete, judged))
    shape = _shape(same_batch, judged, shape)
    place = f"batch {batch_size}" + (f", {shape}" if shape else "")
    rivals = [
        r
        for r in ranked(complete, minimize)
        if r["batch_size"] == batch_size and r["shape"] == shape and _judged(r, minimize)
    ]
    if not rivals:
        return Recommendation(None, False, f"No finished trial at {place} has both a quality and {minimize}.", 0)
    within = [r for r in rivals if within_limit(_drop(r), quality_drop, quality=r["quality"])]
    if within:
        winner = winner_of(within, minimize, limit=quality_drop)
        kind = "fastest" if minimize == LATENCY else f"smallest {minimize}"
        counts = f"of {len(within)} variants within a drop of {quality_drop:g} ({len(rivals)} compared, {place})"
        best = answer(winner, kind, counts, quality_drop, len(rivals))
        return replace(best, reason=best.reason + other)
    row = min(rivals, key=_drop)  # of equal drops the first has the lowest latency
    reason = (
        f"Nothing met the goal: the nearest miss of the {len(rivals)} finished variants at {place} has a drop of "
        f"{_amount(_drop(row))}{interval_words(row)}, above the limit of {quality_drop:g}."
    )
    return Recommendation(row, False, reason + other, len(rivals))


def answer(winner: Winner, kind: str, counts: str, limit: float, candidates: int) -> Recommendation:
    """Return the recommendation of a winner, with the number of compared rows and the evidence."""
    row = winner.row
    place = "among the" if winner.by in ("size", "level finals") else "the"
    reason = f"{row['recipe']} on {row_engine(row)}: {place} {kind} {counts}: {evidence(winner.order, limit)}"
    return Recommendation(row, True, reason + winner.note, candidates, winner.ties)


def pareto_rows(rows: Iterable[TrialRow], *, x: str, y: str, batch_size: int | None = None) -> list[TrialRow]:
    """Return the Pareto front of two columns among the complete rows, sorted by ``x``.

    The columns of :data:`HIGHER_IS_BETTER` are maximized, the others minimized. Equal rows all stay. Rows of two
    machines or shapes are not compared. Reference rows and rows of a survey are left out.
    """
    for column in (x, y):
        _check_column(column)
    complete = [r for r in rows if r["state"] == "complete"]
    costs = [
        (r, a, b)
        for r, a, b in zip(complete, _costs(complete, x), _costs(complete, y), strict=True)
        if is_ranked(r) and a is not None and b is not None and batch_size in (None, r["batch_size"])
    ]
    front = [
        row
        for row, a, b in costs
        if not any(
            (c <= a and d <= b) and (c < a or d < b)
            for rival, c, d in costs
            if rival["fingerprint"] == row["fingerprint"] and rival["shape"] == row["shape"]
        )
    ]
    places = {id(row): -a if x in HIGHER_IS_BETTER else a for row, a, _ in costs}
    return sorted(front, key=lambda r: places[id(r)])


def ranked(rows: Sequence[_Row], column: str) -> list[_Row]:
    """Return rows sorted by a column, then by their drop; rows without a value come last."""

    def rank(value: float | None) -> tuple[bool, float]:
        return value is None, value or 0.0

    pairs = zip(column_values(rows, column), rows, strict=True)
    return [row for _, row in sorted(pairs, key=lambda pair: (rank(pair[0]), rank(pair[1]["quality_drop"])))]


def table_order(rows: Sequence[_Row], column: str) -> list[_Row]:
    """Return rows in the order of a table: ranked by a column, each reference row under its baseline."""
    ordinary = ranked([row for row in rows if row.get("reference") is None], column)
    return references_placed([*ordinary, *(row for row in rows if row.get("reference") is not None)])


def references_placed(rows: Sequence[_Row]) -> list[_Row]:
    """Return rows in their order, each reference row under its baseline."""
    base = baseline_of(rows)
    ordered = [row for row in rows if row.get("reference") is None]
    for row in reversed([row for row in rows if row.get("reference") is not None]):
        own = base(row)
        place = next((i + 1 for i, other in enumerate(ordered) if other is own), len(ordered))
        ordered.insert(place, row)
    return ordered


def check_question(*, quality_drop: float, minimize: str) -> None:
    """Refuse a limit below 0 and a column that cannot be minimized."""
    if not isinstance(quality_drop, int | float) or not math.isfinite(quality_drop) or quality_drop < 0:
        raise StudyError(f"quality_drop must be a number of at least 0 in the metric's units, got {quality_drop!r}.")
    _check_column(minimize)
    if minimize in HIGHER_IS_BETTER:
        raise StudyError(f"{minimize} is better if higher, so it cannot be minimized. Try {LATENCY!r}.")


def _check_column(name: str) -> None:
    if name not in NUMERIC:
        raise StudyError(unknown_name("numeric column", name, NUMERIC))


def one_machine(rows: Sequence[_Row], machine: str | None) -> tuple[list[_Row], str]:
    """Return the rows of the preferred ``machine``, else of that with most rows, and a sentence in that case."""
    counts = Counter(row.get("fingerprint") for row in rows)
    if not counts:
        return [], ""
    chosen = machine if machine in counts else max(counts, key=lambda name: counts[name])
    kept = [r for r in rows if r.get("fingerprint") == chosen]
    words = f"{kept[0]['machine']}, {chosen}" if kept[0].get("machine") else chosen
    return kept, "" if machine in (None, chosen) else f" These rows were measured on another machine ({words})."


def _judged(row: TrialRow, minimize: str) -> bool:
    column = "latency_ms_p50" if minimize == LATENCY and row.get(LATENCY) is None else minimize
    return row["quality_drop"] is not None and row.get(column) is not None


def _batch_size(complete: list[TrialRow], judged: list[TrialRow], batch_size: int | None) -> int:
    if batch_size is None:
        return primary_batch([r["batch_size"] for r in judged])
    measured = sorted({r["batch_size"] for r in complete})
    if batch_size not in measured:
        words = ", ".join(map(str, measured))
        raise StudyError(f"No trial has finished at batch size {batch_size}. Measured: {words}.")
    return batch_size


def usual_shape(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the shape of most rows, of equals the first; empty without rows."""
    counts = Counter(row["shape"] for row in rows)
    return max(counts, key=lambda name: counts[name], default="")


def _shape(rows: list[TrialRow], judged: list[TrialRow], shape: str | None) -> str:
    if shape is None:
        return usual_shape(judged or rows)
    measured = dict.fromkeys(row["shape"] for row in rows)
    if shape not in measured:
        raise StudyError(f"No trial has finished at the shape {shape!r}. Measured: {', '.join(map(repr, measured))}.")
    return shape


def evidence(within: Sequence[TrialRow], limit: float) -> str:
    """Return drop and speedup of the first of ``within``, the ranked rows within ``limit``, and their caveats."""
    row = within[0]
    text = f"drop {_amount(_drop(row))}{interval_words(row)}"
    if row["speedup"] is not None and not row["baseline"]:
        text += f", {row_speedup(row)}"
    text += "."
    if row["verdict"] == "undecided" and row["notes"].get("verdict"):
        text += f" {row['notes']['verdict']}"
    if row["baseline"]:
        text += " It is the baseline itself: no variant within the limit has a lower latency."
    high = row["quality_drop_high"]
    if high is not None and may_exceed(high, limit):
        text += f" The 95 % CI of the drop reaches {_amount(high)}, beyond the limit. Evaluate on more data to be sure."
        sure = (r for r in within if r["quality_drop_high"] is not None and r["quality_drop_high"] <= limit)
        safe = next(sure, None)
        if safe is not None and not safe["baseline"]:
            text += (
                f" Within the limit by its whole 95 % CI: {safe['recipe']} on {row_engine(safe)}, {row_speedup(safe)}."
            )
    return text


def interval_words(row: TrialRow) -> str:
    """Return the 95 % CI of a row's drop in parentheses, or an empty text if there is none."""
    low, high = row["quality_drop_low"], row["quality_drop_high"]
    return "" if low is None or high is None else f" (95 % CI {_amount(low)} to {_amount(high)})"


def _amount(drop: float) -> str:
    """Return a drop with four decimals, without trailing zeros."""
    return f"{round(drop, 4):.6g}"


def _drop(row: TrialRow) -> float:
    return float(row["quality_drop"] or 0.0)


def _costs(rows: Sequence[TrialRow], column: str) -> list[float | None]:
    sign = -1.0 if column in HIGHER_IS_BETTER else 1.0
    return [None if value is None else sign * value for value in column_values(rows, column)]


def mark_recommended(rows: list[TrialRow], best: Recommendation) -> list[TrialRow]:
    """Return ``rows`` with ``recommended`` True on the row of ``best`` if it met the goal, and on no other."""
    chosen: Any = best.row if best.met else None
    return [{**row, "recommended": row is chosen} for row in rows]


def marked(rows: Sequence[Mapping[str, Any]]) -> Recommendation:
    """Return the recommendation that :func:`mark_recommended` has marked in rows."""
    chosen: Any = next((row for row in rows if row.get("recommended")), None)
    reason = "Its row is marked." if chosen is not None else "Nothing met the goal: no row is recommended."
    return Recommendation(chosen, chosen is not None, reason, len(rows))
