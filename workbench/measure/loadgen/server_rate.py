"""Find the highest arrival rate at which an engine meets a latency bound, by bisection over LoadGen's Server."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.checks import (
    given,
    is_finite,
    require_engine,
    require_int,
    require_nonnegative,
    require_path,
    require_positive,
)
from workbench.core.errors import ConfigError
from workbench.measure.loadgen.drivers import Rows, ServedEngine
from workbench.measure.loadgen.run import loadgen
from workbench.measure.loadgen.scenarios import ScenarioResult, require_percentile, run_scenario

_START, _LOWEST, _HIGHEST = 0.5, 0.05, 4.0
_DOWN, _UP = 0.5, 1.5
_ALONE_S = 1.0
_SLACK = 1.15
"""Random arrivals may be fewer than their mean."""
_OVER = 3
"""A probe allows at least so many queries beyond the bound, so that single outliers do not decide."""


@dataclass(frozen=True)
class RateProbe:
    """The test of one rate: ``held`` if LoadGen judged it as valid, otherwise with the ``reason``."""

    per_s: float
    held: bool
    disturbed: bool = False
    reason: str = ""
    result: ScenarioResult = field(kw_only=True)


@dataclass(frozen=True)
class ServerRate:
    """Result of :func:`find_server_rate`.

    Attributes
    ----------
    per_s, failed_per_s : float or None
        The highest tested rate that met the bound, and the lowest one above it that failed, in arrivals per second.
    latency_bound_ms, percentile : float
        The bound, and the percentile of the latency that must meet it.
    probes, ended : tuple of RateProbe, str
        All tests in order, and why the search ended.
    single_stream, offline : ScenarioResult
        One row at a time, and all rows at once: the basis of the first rate.
    """

    per_s: float | None
    failed_per_s: float | None
    latency_bound_ms: float
    percentile: float
    probes: tuple[RateProbe, ...]
    ended: str
    single_stream: ScenarioResult
    offline: ScenarioResult
    notes: tuple[str, ...]

    def __str__(self) -> str:
        bound = f"p{100 * self.percentile:g} within {self.latency_bound_ms:g} ms"
        result = f"no rate meets {bound}" if self.per_s is None else f"{self.per_s:.4g} per s meets {bound}"
        if self.per_s is not None and self.failed_per_s is not None:
            result += f", {self.failed_per_s:.4g} per s does not"
        lines = [
            f"server on {self.offline.backend}: {result}",
            f"  ended: {self.ended}",
            *(f"  {probe.per_s:.4g} per s: {'held' if probe.held else probe.reason}" for probe in self.probes),
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def find_server_rate(
    engine: ServedEngine,
    samples: Any,
    *,
    latency_bound_ms: float,
    percentile: float = 0.99,
    probe_s: float = 2.0,
    budget_s: float = 60.0,
    tolerance: float = 0.05,
    max_wait_ms: float = 0.0,
    seed: int = 0,
    logs: str | Path | None = None,
) -> ServerRate:
    """Find the highest rate of Poisson arrivals at which a percentile of the latency meets a bound.

    The search runs SingleStream and Offline, starts at half the faster rate, brackets the bound, and bisects on a
    logarithmic scale. A rate holds if LoadGen judges the test as valid: the percentile is within the bound with 99 %
    confidence. A short test needs a margin for that, so the result tends to be too low rather than too high.

    Parameters
    ----------
    engine, samples, max_wait_ms, seed
        As in :func:`workbench.run_scenario`, also the errors.
    latency_bound_ms : float
        From the arrival of a row to its result.
    probe_s : float
        Minimum seconds of one test; longer at low rates, because LoadGen needs enough queries (about 1,000 for p99,
        100 for p90).
    budget_s : float
        No test starts that would end later than this many seconds after the start of the search.
    tolerance : float
        The search ends when the lowest failed rate is at most this share above the highest one that held.
    logs : path, optional
        Keep LoadGen's files in this folder, in a subfolder per test.

    Examples
    --------
    >>> rate = wb.find_server_rate(engine, task, latency_bound_ms=20)  # doctest: +SKIP
    >>> rate.per_s, rate.ended  # doctest: +SKIP
    (310.2, 'tolerance reached: ...')
    """
    loadgen()
    require_engine("find_server_rate: engine", engine)
    bound = require_positive("find_server_rate: latency_bound_ms", latency_bound_ms, unit="milliseconds")
    require_percentile("find_server_rate: percentile", percentile)
    least_s = require_positive("find_server_rate: probe_s", probe_s, unit="seconds")
    until = time.perf_counter() + require_positive("find_server_rate: budget_s", budget_s, unit="seconds")
    if not is_finite(tolerance) or not 0.005 <= tolerance <= 1:
        raise ConfigError(f"find_server_rate: tolerance must be a share from 0.005 to 1, got {given(tolerance)}.")
    require_nonnegative("find_server_rate: max_wait_ms", max_wait_ms, unit="milliseconds")
    require_int("find_server_rate: seed", seed, minimum=0)
    folder = None if logs is None else require_path("find_server_rate: logs", logs)
    Rows(samples)

    def test(name: str, seconds: float, **options: Any) -> ScenarioResult:
        log_folder = None if folder is None else folder / name
        return run_scenario(engine, samples, duration_s=seconds, seed=seed, logs=log_folder, **options)

    single = test("single-stream", _ALONE_S, scenario="single-stream")
    offline = test("offline", _ALONE_S, scenario="offline")
    numbers = itertools.count(1)

    def probe(per_s: float) -> RateProbe:
        options = {"target_per_s": per_s, "latency_bound_ms": bound, "percentile": percentile}
        name = f"probe-{next(numbers):02}-{per_s:.4g}-per-s"
        seconds = probe_seconds(per_s, percentile, least_s)
        return probe_result(test(name, seconds, scenario="server", max_wait_ms=max_wait_ms, **options))

    def room_for(per_s: float) -> bool:
        return time.perf_counter() + probe_seconds(per_s, percentile, least_s) <= until

    limits = _limits(single, offline, bound)
    bracket = search(probe, limits, tolerance=tolerance, room_for=room_for)
    ended, probes = bracket.ended, tuple(bracket.probes)
    if not probes:
        first = probe_seconds(limits.start, percentile, least_s)
        ended += f", which takes {first:.3g} s. Increase budget_s, or use a lower percentile"
    notes = _notes(probes)
    return ServerRate(bracket.held, bracket.failed, bound, percentile, probes, ended, single, offline, notes)


@dataclass(frozen=True)
class SearchRange:
    """Start, minimum and maximum rate of a search, with descriptions of the two ends."""

    start: float
    lowest: float
    highest: float
    lowest_text: str = "the minimum rate"
    highest_text: str = "the maximum rate"


@dataclass
class Bracket:
    """State of a search: the highest rate that held, the lowest one that failed, and why the search ended."""

    probes: list[RateProbe] = field(default_factory=list)
    held: float | None = None
    failed: float | None = None
    ended: str = ""


def search(
    probe: Callable[[float], RateProbe], limits: SearchRange, *, tolerance: float, room_for: Callable[[float], bool]
) -> Bracket:
    """Search the highest rate that holds: bracket it, then bisect on a logarithmic scale.

    A rate that failed in a disturbed test is tried once more, and the second result counts. The search ends when the
    lowest failed rate is at most ``tolerance`` above the highest one that held, or there is no ``room_for`` a rate.
    """
    bracket = Bracket()
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


def _next(bracket: Bracket, limits: SearchRange, tolerance: float) -> tuple[float, str]:
    """Return the rate to try next, or why the search ends."""
    held, failed = bracket.held, bracket.failed
    if failed is None:
        if held is None:
            return limits.start, ""
        if held >= limits.highest:
            return 0.0, f"{limits.highest:.4g} per s holds ({limits.highest_text})"
        return min(limits.highest, held * _UP), ""
    if held is None:
        if failed <= limits.lowest:
            return 0.0, f"{limits.lowest:.4g} per s fails ({limits.lowest_text})"
        return max(limits.lowest, failed * _DOWN), ""
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

    def at_most(n: int) -> float:
        return sum(math.comb(n, k) * (1 - percentile) ** k * percentile ** (n - k) for k in range(over + 1))

    queries = over + 1
    while at_most(queries) > 0.01:
        queries += 1
    return queries


def probe_seconds(per_s: float, percentile: float, least_s: float) -> float:
    """Return the seconds that LoadGen needs to confirm a percentile at a rate, at least ``least_s``."""
    return max(least_s, _SLACK * queries_needed(percentile, over=_OVER) / per_s)


def _limits(single: ScenarioResult, offline: ScenarioResult, bound: float) -> SearchRange:
    fastest = max(single.samples_per_s, offline.samples_per_s)
    lowest = _LOWEST * single.samples_per_s
    alone = float(np.median(single.latencies_ms))
    start = _START * fastest if alone <= bound else lowest  # a single row exceeds the bound
    return SearchRange(
        start,
        lowest,
        _HIGHEST * fastest,
        f"1/20 of the SingleStream rate; a single row takes {alone:.3g} ms (median)",
        f"{_HIGHEST:g} times the faster of Offline and SingleStream",
    )


def probe_result(result: ScenarioResult) -> RateProbe:
    """Return whether a Server test met its bound, or the reason."""
    bound, latency = result.latency_bound_ms or 0.0, result.latency_ms_target
    within = latency is not None and latency <= bound
    reason = ""
    if not within:
        reached = "not resolved" if latency is None else f"{latency:.3g} ms"
        reason = f"p{100 * result.percentile:g} {reached}"
        if any("outstanding" in error for error in result.log.errors):
            reason += ", and LoadGen ended the test because of too many outstanding rows"
    elif not result.valid:
        reason = "; ".join(result.reasons)
    held, disturbed = within and result.valid, bool(result.conditions.reasons)
    return RateProbe(result.target_per_s or 0.0, held, disturbed, reason, result=result)


def _notes(probes: Sequence[RateProbe]) -> tuple[str, ...]:
    notes = []
    disturbed = sum(probe.disturbed for probe in probes)
    if disturbed:
        notes.append(f"other processes disturbed {disturbed} of {len(probes)} tests; re-run on an idle machine.")
    if probes:
        longest = max(probe.result.duration_s for probe in probes)
        notes.append(f"not an MLPerf result: the longest test took {longest:.3g} s, MLPerf requires 600 s.")
    return tuple(notes)
