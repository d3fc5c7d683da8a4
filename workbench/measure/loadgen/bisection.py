"""The search for the highest rate that holds: up or down until it is enclosed, then halved, as ratios."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

_DOWN = 0.5
_UP = 1.5
_CONFIDENCE = 0.99
"""That of LoadGen's early stopping."""


class Probe(Protocol):
    """One rate that was tried."""

    @property
    def per_s(self) -> float:
        """The rate."""

    @property
    def held(self) -> bool:
        """Whether it held."""

    @property
    def disturbed(self) -> bool:
        """Whether something else used the machine meanwhile, so that it may hold after all."""


P = TypeVar("P", bound=Probe)


@dataclass(frozen=True)
class Limits:
    """Where a search begins, and the lowest and highest rate that it tries; each with what it is, in words."""

    start: float
    lowest: float
    highest: float
    lowest_words: str = "the lowest rate that is tried"
    highest_words: str = "the highest rate that is tried"


@dataclass
class Found(Generic[P]):
    """What a search has found so far: the highest rate that held and the lowest one that did not."""

    probes: list[P] = field(default_factory=list)
    held: float | None = None
    failed: float | None = None
    ended: str = ""

    def take(self, probe: P) -> None:
        """Take the answer for one rate."""
        if probe.held:
            self.held = probe.per_s
        else:
            self.failed = probe.per_s


def search(
    probe: Callable[[float], P], limits: Limits, *, tolerance: float, room_for: Callable[[float], bool]
) -> Found[P]:
    """Search the highest rate that holds.

    A rate that failed while something else used the machine is tried once more, and the second answer counts.

    Parameters
    ----------
    probe : function
        Tries a rate.
    tolerance : float
        It ends when the lowest rate that failed is no more than this share above the one that held.
    room_for : function
        Says whether there is time to try a rate.

    Examples
    --------
    >>> found = search(server, Limits(50, 1, 400), tolerance=0.05, room_for=lambda rate: True)  # doctest: +SKIP
    >>> found.held, found.failed  # doctest: +SKIP
    (97.3, 101.6)
    """
    found: Found[P] = Found()
    while not found.ended:
        rate, found.ended = _next(found, limits, tolerance)
        if found.ended:
            break
        if not room_for(rate):
            found.ended = f"the time is used up: {rate:.4g} per s would have been tried next"
            break
        tried = probe(rate)
        found.probes.append(tried)
        if not tried.held and tried.disturbed and room_for(rate):
            tried = probe(rate)
            found.probes.append(tried)
        found.take(tried)
    return found


def _next(found: Found[P], limits: Limits, tolerance: float) -> tuple[float, str]:
    """Return the rate to try next, or why the search ends."""
    held, failed = found.held, found.failed
    if held is None and failed is None:
        return limits.start, ""
    if held is None:
        if failed is not None and failed <= limits.lowest:
            return 0.0, f"not even {limits.lowest:.4g} per s holds, {limits.lowest_words}"
        return max(limits.lowest, (failed or 0.0) * _DOWN), ""
    if failed is None:
        if held >= limits.highest:
            return 0.0, f"{limits.highest:.4g} per s still holds, {limits.highest_words}"
        return min(limits.highest, held * _UP), ""
    if failed <= held * (1 + tolerance):
        return 0.0, f"tolerance reached: {failed / held - 1:.1%} lie between the two rates".replace("%", " %")
    return math.sqrt(held * failed), ""


def queries_needed(percentile: float, *, over: int = 1) -> int:
    """Return how many queries LoadGen needs to be sure of a percentile if ``over`` of them are beyond the bound.

    So many that no more than ``over`` of them would be beyond it with a probability of at most 1 % if the percentile
    were just at the bound: https://github.com/mlcommons/inference/blob/master/loadgen/early_stopping.cc

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
