"""Choose the winner among the rows within a quality limit: head-to-head timing, then latency, ties by size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.study.results.quality_limits import may_exceed
from workbench.study.results.relative_latency import LATENCY, RelativeLatency, relative_latencies
from workbench.study.results.schema import TrialRow, row_engine

TIED = "Tied with"
"""Beginning of the note of a row whose latency does not differ significantly from the winner's."""
_EQUAL_SIZE = 0.02
"""Files whose sizes differ by less than this share count as equally large."""


@dataclass(frozen=True)
class Winner:
    """The winning row. ``order`` holds all rows with the winner first, ``ties`` those that are tied with it.

    ``by`` is the rule that decided: ``"rank"`` (the ranked column), ``"size"`` (a tie), ``"finals"`` (head-to-head
    timing), or ``"level finals"`` if a finalist is tied with it. ``note`` explains it, empty for ``"rank"``.
    """

    order: tuple[TrialRow, ...]
    by: str = "rank"
    ties: tuple[TrialRow, ...] = ()
    note: str = ""

    @property
    def row(self) -> TrialRow:
        """The winning row."""
        return self.order[0]


def winner_of(rows: Sequence[TrialRow], column: str, *, limit: float = math.inf) -> Winner:
    """Return the winner of rows that are ranked by ``column`` and within the limit.

    By latency, the lowest ``final_rank`` wins, unless the 95 % CI of another row is below that of the finalist. Without
    finalists the first row wins; of the rows tied with it, the smallest whose 95 % CI of the drop is within ``limit``.
    """
    if column != LATENCY:
        return Winner(tuple(rows))
    latency = {id(row): value for row, value in zip(rows, relative_latencies(rows), strict=True)}
    leader = rows[0]
    finalists = [row for row in rows if row.get("final_rank") is not None]
    if finalists:
        first = min(finalists, key=lambda row: row["final_rank"] or 0)
        if leader.get("final_rank") is None and _below(latency[id(leader)], latency[id(first)]):
            return Winner(tuple(rows))
        level = any(str(row["notes"].get("final_rank", "")).startswith(TIED) for row in finalists)
        by = "level finals" if level else "finals"
        return Winner(_ahead(first, rows), by, note=_finals_note(first, finalists))
    ties = [row for row in rows if row is leader or _tied(leader, row, latency)]
    # of equal sizes the first, which has the lower latency
    first = min(ties, key=lambda row: (may_exceed(row["quality_drop_high"], limit), _size(row)))
    others = tuple(row for row in ties if row is not first)
    if not others:
        return Winner(tuple(rows))
    if first is leader and all(_size(row) == _size(leader) for row in others):
        return Winner(tuple(rows), ties=others, note=_tie_note(first, others, ""))
    smaller = all(_size(first) <= _size(row) for row in others)
    if smaller:
        end = f"; {first['recipe']} is smaller"
    elif first["quality_drop_high"] is not None:
        end = f"; {first['recipe']} is within the limit by its whole 95 % CI"
    else:
        end = "; by the 95 % CI of its drop, a smaller one may be beyond the limit"
    return Winner(_ahead(first, rows), "size", others, _tie_note(first, others, end))


def _tied(leader: TrialRow, row: TrialRow, latency: dict[int, RelativeLatency]) -> bool:
    """Return whether two rows are tied; against the baseline that is the verdict."""
    if leader["baseline"] or row["baseline"]:
        return (row if leader["baseline"] else leader)["verdict"] in ("same", "undecided")
    return _inside(latency[id(leader)], latency[id(row)]) and _inside(latency[id(row)], latency[id(leader)])


def _inside(one: RelativeLatency, other: RelativeLatency) -> bool:
    if one.ms is None or other.low is None or other.high is None:
        return one.ms == other.ms
    return other.low <= one.ms <= other.high


def _below(one: RelativeLatency, other: RelativeLatency) -> bool:
    return one.high is not None and other.low is not None and one.high < other.low


def _size(row: TrialRow) -> float:
    size = row["size_mib"]
    return math.inf if not size else round(math.log(size) / math.log1p(_EQUAL_SIZE))


def _ahead(first: TrialRow, rows: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    return (first, *(row for row in rows if row is not first))


def _finals_note(first: TrialRow, finalists: Sequence[TrialRow]) -> str:
    """Return the number of finalists, and how the second one compares with the winner."""
    others = [row for row in finalists if row is not first]
    if not others:
        return ""
    second = min(others, key=lambda row: row["final_rank"] or 0)
    evidence = second["notes"].get("final_rank")
    compared = f" Second, {second['recipe']} on {row_engine(second)}: {evidence}" if evidence else ""
    return f" First of {len(finalists)} finalists in head-to-head timing.{compared}"


def _tie_note(row: TrialRow, others: Sequence[TrialRow], end: str) -> str:
    names = ", ".join(f"{other['recipe']} on {row_engine(other)}" for other in others[:3])
    rest = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f" {TIED} {names}{rest} in latency{end}."
