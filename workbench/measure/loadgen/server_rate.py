"""The highest rate of arrivals at which an engine keeps a latency bound, found by bisection over LoadGen's Server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.core.checks import (
    given,
    require_engine,
    require_int,
    require_nonnegative,
    require_path,
    require_positive,
)
from workbench.core.errors import ConfigError
from workbench.measure.loadgen.bisection import Limits, queries_needed, search
from workbench.measure.loadgen.drivers import Rows, ServedEngine
from workbench.measure.loadgen.scenarios import ScenarioResult, run_scenario, share
from workbench.measure.loadgen.test import loadgen

_START, _LOWEST, _HIGHEST = 0.5, 0.05, 4.0
_ALONE_S = 1.0
_SLACK = 1.15
"""Arrivals by chance may be fewer than their mean."""
_OVER = 3
"""Queries beyond the bound that a probe may have at least: with fewer allowed, single hiccups would decide."""


@dataclass(frozen=True)
class RateProbe:
    """One rate that was tried: held where LoadGen calls the test valid; ``reason`` says why not."""

    per_s: float
    held: bool
    reason: str
    result: ScenarioResult

    @property
    def disturbed(self) -> bool:
        """Whether something else used the machine meanwhile."""
        return bool(self.result.conditions.reasons)


@dataclass(frozen=True)
class ServerRate:
    """What :func:`find_server_rate` found.

    Attributes
    ----------
    per_s : float or None
        The highest rate tried that held the bound, arrivals per second; None where none did.
    failed_per_s : float or None
        The lowest rate above it that did not; None where every rate held.
    latency_bound_ms, percentile : float
        What was to be held: this percentile of the latency within the bound.
    probes : tuple of RateProbe
        Every rate that was tried, in order.
    ended : str
        Why the search ended.
    single_stream, offline : ScenarioResult
        One row at a time, and all rows at once: where the search began.
    notes : tuple of str
        What a reader must know.
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
        found = f"no rate holds {bound}" if self.per_s is None else f"{self.per_s:.4g} per s hold {bound}"
        if self.per_s is not None and self.failed_per_s is not None:
            found += f", {self.failed_per_s:.4g} per s do not"
        lines = [
            f"server on {self.offline.backend}: {found}",
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
    """Find the highest rate of Poisson arrivals at which a percentile of the latency keeps a bound.

    The search begins with SingleStream and Offline, tries half the faster one's rate, goes up or down until it has a
    rate that holds and one that does not, and halves what is between them (as ratios). A rate holds where LoadGen
    calls the test valid: the percentile is within the bound, with 99 % confidence for as many queries as the test had.
    A short test must be better than the bound to be that sure, so that the rate found is rather too low than too high.

    Parameters
    ----------
    engine, samples, max_wait_ms, seed
        As in :func:`workbench.run_scenario`.
    latency_bound_ms : float
        From a row's arrival until its answer.
    probe_s : float
        Least seconds of one probe; it is longer where the rate is so low that LoadGen would see too few queries to be
        sure (about 1,000 for p99, 100 for p90).
    budget_s : float
        No probe starts that would end later than this many seconds after the start of the search.
    tolerance : float
        The search ends when the lowest rate that failed is no more than this share above the one that held.
    logs : path, optional
        The folder that keeps LoadGen's files, in a folder of its own for each test.

    Raises
    ------
    PackageMissing, ConfigError, InputError
        As in :func:`workbench.run_scenario`.

    Examples
    --------
    >>> rate = wb.find_server_rate(engine, task, latency_bound_ms=20)  # doctest: +SKIP
    >>> rate.per_s, rate.ended  # doctest: +SKIP
    (310.2, 'tolerance reached: ...')
    """
    loadgen()
    require_engine("find_server_rate: engine", engine)
    bound = require_positive("find_server_rate: latency_bound_ms", latency_bound_ms, unit="milliseconds")
    share("find_server_rate: percentile", percentile)
    least_s = require_positive("find_server_rate: probe_s", probe_s, unit="seconds")
    until = time.perf_counter() + require_positive("find_server_rate: budget_s", budget_s, unit="seconds")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0.005 <= tolerance <= 1:
        raise ConfigError(f"find_server_rate: tolerance must be a share from 0.005 to 1, got {given(tolerance)}.")
    require_nonnegative("find_server_rate: max_wait_ms", max_wait_ms, unit="milliseconds")
    require_int("find_server_rate: seed", seed, minimum=0)
    folder = None if logs is None else require_path("find_server_rate: logs", logs)
    Rows(samples)

    def test(name: str, seconds: float, **options: Any) -> ScenarioResult:
        where = None if folder is None else folder / name
        return run_scenario(engine, samples, duration_s=seconds, seed=seed, logs=where, **options)

    single = test("single-stream", _ALONE_S, scenario="single-stream")
    offline = test("offline", _ALONE_S, scenario="offline")
    count = 0

    def probe(per_s: float) -> RateProbe:
        nonlocal count
        count += 1
        options = {"target_per_s": per_s, "latency_bound_ms": bound, "percentile": percentile}
        name = f"probe-{count:02}-{per_s:.4g}-per-s"
        seconds = probe_seconds(per_s, percentile, least_s)
        return judged(test(name, seconds, scenario="server", max_wait_ms=max_wait_ms, **options))

    def room_for(per_s: float) -> bool:
        return time.perf_counter() + probe_seconds(per_s, percentile, least_s) <= until

    found = search(probe, _limits(single, offline, bound), tolerance=tolerance, room_for=room_for)
    ended = found.ended
    if not found.probes:
        first = probe_seconds(_limits(single, offline, bound).start, percentile, least_s)
        ended += f", which takes {first:.3g} s. Give a larger budget_s, or a lower percentile"
    return ServerRate(
        found.held, found.failed, bound, percentile, tuple(found.probes), ended, single, offline, _notes(found.probes)
    )


def probe_seconds(per_s: float, percentile: float, least_s: float) -> float:
    """Return how long a test at a rate must be for LoadGen to be sure of a percentile, ``least_s`` at least."""
    return max(least_s, _SLACK * queries_needed(percentile, over=_OVER) / per_s)


def _limits(single: ScenarioResult, offline: ScenarioResult, bound: float) -> Limits:
    fastest = max(single.samples_per_s, offline.samples_per_s)
    lowest = _LOWEST * single.samples_per_s
    alone = float(np.median(single.latencies_ms))
    start = _START * fastest if alone <= bound else lowest  # a row with nothing before it takes longer than that
    return Limits(
        start,
        lowest,
        _HIGHEST * fastest,
        f"a twentieth of SingleStream's rate; a row alone takes {alone:.3g} ms (median)",
        f"{_HIGHEST:g} times the faster one of Offline and SingleStream",
    )


def judged(result: ScenarioResult) -> RateProbe:
    """Return whether a Server test held its bound, with the reason where it did not."""
    bound, latency = result.latency_bound_ms or 0.0, result.latency_ms_target
    within = latency is not None and latency <= bound
    reason = ""
    if not within:
        found = "not resolved" if latency is None else f"{latency:.3g} ms"
        reason = f"p{100 * result.percentile:g} {found}"
        if any("outstanding" in error for error in result.log.errors):
            reason += ", and LoadGen ended the test: too many rows waited"
    elif not result.valid:
        reason = "; ".join(result.reasons)
    return RateProbe(result.target_per_s or 0.0, within and result.valid, reason, result)


def _notes(probes: list[RateProbe]) -> tuple[str, ...]:
    found = []
    disturbed = sum(probe.disturbed for probe in probes)
    if disturbed:
        found.append(f"something else used the machine in {disturbed} of {len(probes)} tests: do it again when quiet.")
    if probes:
        longest = max(probe.result.duration_s for probe in probes)
        found.append(f"the longest test took {longest:.3g} s, an official MLPerf one takes 600 s: no MLPerf result.")
    return tuple(found)
