"""Bracket the highest rate that meets a bound, then bisect on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_DOWN = 0.5
_UP = 1.5
_CONFIDENCE = 0.99
"""The confidence of LoadGen's early stopping."""


@dataclass(frozen=True)
class Probe:
    """The result for one rate: ``held`` if it met the bound, ``disturbed`` if a failure may not count."""

    per_s: float
    held: bool
    disturbed: bool = False


P = TypeVar("P", bound=Probe)


@dataclass(frozen=True)
class SearchRange:
    """Start, minimum and maximum rate of a search, with descriptions of the two ends."""

    start: float
    lowest: float
    highest: float
    lowest_text: str = "the minimum rate"
    highest_text: str = "the maximum rate"


@dataclass
class Bracket(Generic[P]):
    """State of a search: the highest rate that held, the lowest one that failed, and why the search ended."""

    probes: list[P] = field(default_factory=list)
    held: float | None = None
    failed: float | None = None
    ended: str = ""


def search(
    probe: Callable[[float], P], limits: SearchRange, *, tolerance: float, room_for: Callable[[float], bool]
) -> Bracket[P]:
    """Search the highest rate that holds.

    A rate that failed in a disturbed test is tried once more, and the second result counts.

    Parameters
    ----------
    probe : function
        Tests a rate.
    tolerance : float
        The search ends when the lowest failed rate is at most this share above the highest one that held.
    room_for : function
        Returns whether there is time to test a rate.

    Examples
    --------
    >>> bracket = search(server, SearchRange(50, 1, 400), tolerance=0.05, room_for=lambda rate: True)  # doctest: +SKIP
    >>> bracket.held, bracket.failed  # doctest: +SKIP
    (97.3, 101.6)
    """
    bracket: Bracket[P] = Bracket()
    while True:
        rate, bracket.ended = _next(bracket, limits, tolerance)
        if not bracket.ended and not room_for(rate):
            bracket.ended = f"time budget used up before {rate:.4g} per s"
        if bracket.ended:
            return bracket
        result = probe(rate)
        bracket.probes.append(result)
        if not result.held and result.disturbed and room_for(rate):
            result = probe(rate)
            bracket.probes.append(result)
        if result.held:
            bracket.held = result.per_s
        else:
            bracket.failed = result.per_s


def _next(bracket: Bracket[P], limits: SearchRange, tolerance: float) -> tuple[float, str]:
    """Return the rate to try next, or why the search ends."""
    held, failed = bracket.held, bracket.failed
    if held is None and failed is None:
        return limits.start, ""
    if held is None:
        if failed is not None and failed <= limits.lowest:
            return 0.0, f"{limits.lowest:.4g} per s fails ({limits.lowest_text})"
        return max(limits.lowest, (failed or 0.0) * _DOWN), ""
    if failed is None:
        if held >= limits.highest:
            return 0.0, f"{limits.highest:.4g} per s holds ({limits.highest_text})"
        return min(limits.highest, held * _UP), ""
    if failed <= held * (1 + tolerance):
        return 0.0, f"tolerance reached: the two rates differ by {100 * (failed / held - 1):.1f} %"
    return math.sqrt(held * failed), ""


def queries_needed(percentile: float, *, over: int = 1) -> int:
    """Return the queries that LoadGen needs to confirm a percentile if ``over`` of them exceed the bound.

    With so many, at most ``over`` would exceed the bound with a probability of at most 1 % if the percentile were
    exactly at the bound: https://github.com/mlcommons/inference/blob/master/loadgen/early_stopping.cc

    Examples
    --------
    >>> queries_needed(0.9), queries_needed(0.99)
    (64, 662)
    """
    beyond = 1 - percentile
    queries = over + 1
    while _at_most(over, queries, beyond) > 1 - _CONFIDENCE:
        queries += 1
    return queries


def _at_most(k: int, n: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
