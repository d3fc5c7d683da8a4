"""Load as MLPerf defines it, by its own load generator in this process: SingleStream, MultiStream, Offline, Server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.core.checks import (
    given,
    require_engine,
    require_int,
    require_nonnegative,
    require_path,
    require_positive,
)
from workbench.core.errors import ConfigError, unknown_name
from workbench.core.stats import quantile_bounds
from workbench.engine.loading.placement import runs_on_gpu
from workbench.measure.loadgen.drivers import Rows, ServedEngine, prepared
from workbench.measure.loadgen.log import LoadGenLog
from workbench.measure.loadgen.sut import System
from workbench.measure.loadgen.test import Load, loadgen, run_load
from workbench.timing.blocks import Samples
from workbench.timing.conditions import Conditions, LoadMonitor

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]
SCENARIOS = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
"""Names here, and those of LoadGen."""
_JUDGED_BY = {"single-stream": 0.90, "multi-stream": 0.99, "offline": 0.99, "server": 0.99}
"""The percentiles of MLPerf."""
_SUBMISSION_S = 600
"""Seconds that MLPerf's rules ask of a test at least."""
_PER_S = {
    "single-stream": "result_qps_with_loadgen_overhead",
    "offline": "result_samples_per_second",
    "server": "result_completed_samples_per_sec",
}


@dataclass(frozen=True)
class ScenarioResult:
    """One test by LoadGen. Latencies are LoadGen's own, of one query; figures that it cannot tell are None.

    Attributes
    ----------
    scenario : str
        ``"single-stream"``, ``"multi-stream"``, ``"offline"`` or ``"server"``.
    backend : str
        What ran the samples.
    valid : bool
        What LoadGen says; ``reasons`` is why not.
    queries, samples_per_query : int
        How many queries were answered, and the samples of each; of Offline one query with all samples.
    duration_s : float
        Seconds from the first query to the last answer.
    samples_per_s : float
        Samples answered per second.
    latency_ms_p50, latency_ms_p90, latency_ms_p99 : float or None
        None where so few queries do not resolve it, and in Offline, where all samples wait in one line.
    percentile, latency_ms_target : float, float or None
        The percentile that the scenario is judged by, and the latency there.
    target_per_s, latency_bound_ms : float or None
        Server: the mean rate of arrivals, and what ``latency_ms_target`` may be at most.
    latencies_ms : array [queries]
        In the order of issue.
    log : LoadGenLog
        LoadGen's summary and figures; ``logs`` is the folder of its files, None where they were not kept.
    conditions : Conditions
        What the machine did meanwhile.
    notes : tuple of str
        What a reader must know.
    """

    scenario: str
    backend: str
    valid: bool
    reasons: tuple[str, ...]
    queries: int
    samples_per_query: int
    duration_s: float
    samples_per_s: float
    latency_ms_p50: float | None
    latency_ms_p90: float | None
    latency_ms_p99: float | None
    percentile: float
    latency_ms_target: float | None
    target_per_s: float | None
    latency_bound_ms: float | None
    latencies_ms: Samples = field(repr=False, compare=False)
    log: LoadGenLog = field(repr=False)
    logs: Path | None
    conditions: Conditions
    notes: tuple[str, ...]

    def __str__(self) -> str:
        known = (("p50", self.latency_ms_p50), ("p90", self.latency_ms_p90), ("p99", self.latency_ms_p99))
        latencies = ", ".join(f"{name} {ms:.3g} ms" for name, ms in known if ms is not None)
        rows = f" of {self.samples_per_query:,} rows" if self.samples_per_query > 1 else ""
        counted = f"{self.queries:,} {'query' if self.queries == 1 else 'queries'}{rows}"
        offered = "" if self.target_per_s is None else f" of {self.target_per_s:.4g} offered"
        lines = [
            f"{self.scenario} on {self.backend}: {self.samples_per_s:.4g} samples per s{offered}"
            f"{'; ' + latencies if latencies else ''} ({counted})",
            f"  LoadGen: {'VALID' if self.valid else 'INVALID'}",
            *(f"  not valid: {reason}" for reason in self.reasons),
            f"  meanwhile: {self.conditions}",
            *(f"  note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def run_scenario(
    engine: ServedEngine,
    samples: Any,
    *,
    scenario: Scenario = "single-stream",
    duration_s: float = 5.0,
    samples_per_query: int = 8,
    target_per_s: float | None = None,
    latency_bound_ms: float | None = None,
    percentile: float | None = None,
    max_wait_ms: float = 0.0,
    seed: int = 0,
    logs: str | Path | None = None,
) -> ScenarioResult:
    """Put one of MLPerf's loads on an engine, by MLPerf's LoadGen, and return what LoadGen measured.

    The engine is warmed up first in the way in which it is used then, and called on this thread; in Server by the
    batcher's own threads. What LoadGen's Python binding takes to hand a query over and back counts, about 5 µs: what
    that matters in calls of less than 0.1 ms, :func:`workbench.time_calls` tells.

    Parameters
    ----------
    engine : OptimizedInferenceEngine
        Ready.
    samples : array, tuple or dict, or Task
        What predict takes, with a leading dimension ``[n, ...]``: a query asks for rows of it. Of a task: its examples.
    scenario : str
        ``"single-stream"``: one row after the other by ``predict``. ``"multi-stream"``: ``samples_per_query`` rows
        after one another, each time in one ``predict``; putting the rows together counts. ``"offline"``: all rows at
        once, by ``predict_batch`` in calls of ``engine.call_size``. ``"server"``: single rows arrive by chance
        (Poisson), ``target_per_s`` a second, and ``engine.batcher`` joins those that wait.
    duration_s : float
        LoadGen issues queries for so long at least.
    target_per_s, latency_bound_ms : float
        Server only, and needed there.
    percentile : float, optional
        The latency that counts, 0 to 1; by default MLPerf's: 0.9 in SingleStream and else 0.99.
    max_wait_ms : float
        Server only: how long a row may wait for others although the engine is free.
    logs : path, optional
        The folder that keeps LoadGen's files; those of an earlier test there are overwritten.

    Raises
    ------
    PackageMissing
        If mlcommons-loadgen is not installed.
    ConfigError, InputError
        Before work starts, if an option is wrong or the samples do not fit the engine.
    Exception
        What the engine raises while it answers, once LoadGen's test has ended; KeyboardInterrupt at Ctrl-C.

    Examples
    --------
    >>> result = wb.run_scenario(engine, task, scenario="server", target_per_s=200, latency_bound_ms=20)
    >>> result.valid, result.latency_ms_p99  # doctest: +SKIP
    (True, 11.4)
    """
    loadgen()
    require_engine("run_scenario: engine", engine)
    require_nonnegative("run_scenario: max_wait_ms", max_wait_ms, unit="milliseconds")
    load = _load(scenario, duration_s, samples_per_query, target_per_s, latency_bound_ms, percentile, seed)
    folder = None if logs is None else require_path("run_scenario: logs", logs)
    rows = Rows(samples)
    with prepared(engine, rows, load, max_wait_ms=max_wait_ms) as (system, expected):
        watch = LoadMonitor(gpu=runs_on_gpu(getattr(engine, "placement", "")))
        log = run_load(expected, system, count=rows.count, logs=folder)
        conditions = watch.lap()
    return _result(scenario, expected, system, log, conditions, str(getattr(engine, "backend", "engine")), folder)


def share(where: str, value: Any) -> float:
    """Return a percentile as a share between 0.5 and 1, or raise ConfigError."""
    if isinstance(value, bool) or not isinstance(value, float) or not 0.5 <= value < 1:
        raise ConfigError(f"{where} must be a share from 0.5 to below 1, such as 0.99, got {given(value)}.")
    return value


def _load(
    scenario: Any, duration_s: Any, samples_per_query: Any, target: Any, bound: Any, percentile: Any, seed: Any
) -> Load:
    if not isinstance(scenario, str) or scenario not in SCENARIOS:
        raise ConfigError(unknown_name("scenario", scenario, SCENARIOS))
    server = scenario == "server"
    for name, value in (("target_per_s", target), ("latency_bound_ms", bound)):
        if server == (value is None):
            words = f"scenario='server' needs {name}" if server else f"{name} belongs to scenario='server' only"
            raise ConfigError(f"run_scenario: {words}; got scenario={scenario!r} and {name}={given(value)}.")
    require_int("run_scenario: samples_per_query", samples_per_query)
    seconds = require_positive("run_scenario: duration_s", duration_s, unit="seconds")
    judged = _JUDGED_BY[scenario] if percentile is None else share("run_scenario: percentile", percentile)
    return Load(
        SCENARIOS[scenario],
        seconds,
        require_positive("run_scenario: target_per_s", target, unit="samples per second") if server else 1.0,
        samples_per_query if scenario == "multi-stream" else 1,
        judged,
        require_positive("run_scenario: latency_bound_ms", bound, unit="milliseconds") if server else 0.0,
        seed=require_int("run_scenario: seed", seed, minimum=0),
    )


def _result(
    scenario: str, load: Load, system: System, log: LoadGenLog, conditions: Conditions, backend: str, logs: Path | None
) -> ScenarioResult:
    queries = log.latencies_ms.size
    known = {q: _percentile(log, q, per_query=scenario == "multi-stream") for q in (0.5, 0.9, 0.99)}
    server = scenario == "server"
    per_s = _PER_S.get(scenario)
    return ScenarioResult(
        scenario=scenario,
        backend=backend,
        valid=log.valid,
        reasons=log.reasons,
        queries=queries,
        samples_per_query=round(log.samples / queries),
        duration_s=system.seconds,
        samples_per_s=float(log.detail[per_s]) if per_s else log.samples / system.seconds,
        latency_ms_p50=known[0.5],
        latency_ms_p90=known[0.9],
        latency_ms_p99=known[0.99],
        percentile=load.percentile,
        latency_ms_target=latency_at(log.latencies_ms, load.percentile),
        target_per_s=load.per_s if server else None,
        latency_bound_ms=load.latency_bound_ms if server else None,
        latencies_ms=log.latencies_ms,
        log=log,
        logs=logs,
        conditions=conditions,
        notes=_notes(load, log, conditions),
    )


def latency_at(latencies_ms: Samples, percentile: float) -> float | None:
    """Return the latency at a percentile as LoadGen takes it, None where the queries do not resolve it."""
    if quantile_bounds(latencies_ms.size, percentile) is None:
        return None
    return float(np.sort(latencies_ms)[int(latencies_ms.size * percentile)])


def _percentile(log: LoadGenLog, percentile: float, *, per_query: bool) -> float | None:
    if quantile_bounds(log.latencies_ms.size, percentile) is None:
        return None
    return log.ms(f"result_{100 * percentile:.2f}_percentile_{'per_query_' if per_query else ''}latency_ns")


def _notes(load: Load, log: LoadGenLog, conditions: Conditions) -> tuple[str, ...]:
    found = []
    if load.duration_s < _SUBMISSION_S:
        found.append(
            f"{load.duration_s:g} s is not the length of an official MLPerf test ({_SUBMISSION_S} s at least), and its "
            "other rules were not checked: no MLPerf result."
        )
    unresolved = [f"p{100 * q:g}" for q in (0.5, 0.9, 0.99) if quantile_bounds(log.latencies_ms.size, q) is None]
    if load.scenario == "Offline":
        found.append("Offline hands over all samples at once, so that a latency of one is only its place in the line.")
    elif unresolved:
        found.append(f"{log.latencies_ms.size} queries do not resolve {', '.join(unresolved)}.")
    if conditions.reasons:
        found.append(f"disturbed: {', '.join(conditions.reasons)}. Run it again on a quiet machine.")
    return tuple(found)
