"""Run the MLPerf LoadGen scenarios against an engine in this process."""

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
from workbench.engine.backends.base import runs_on_gpu
from workbench.measure.loadgen.drivers import Rows, ServedEngine, prepared_sut
from workbench.measure.loadgen.log import LoadGenLog
from workbench.measure.loadgen.run import Load, loadgen, run_load
from workbench.timing.blocks import Samples
from workbench.timing.conditions import Conditions, LoadMonitor

Scenario = Literal["single-stream", "multi-stream", "offline", "server"]
SCENARIOS = {"single-stream": "SingleStream", "multi-stream": "MultiStream", "offline": "Offline", "server": "Server"}
"""The names of this package and of LoadGen."""
_SUBMISSION_S = 600
"""Minimum seconds of a test by MLPerf's rules."""
_QUANTILES = (0.5, 0.9, 0.99)
_PER_S = {
    "single-stream": "result_qps_with_loadgen_overhead",
    "offline": "result_samples_per_second",
    "server": "result_completed_samples_per_sec",
}


@dataclass(frozen=True)
class ScenarioResult:
    """Result of one LoadGen test; latencies are LoadGen's own, per query.

    Attributes
    ----------
    valid, reasons : bool, tuple of str
        LoadGen's judgement, and the reasons for INVALID.
    queries, samples_per_query, duration_s, samples_per_s
        Completed queries (Offline: one query of all samples), and seconds from the first query to the last completion.
    latency_ms_p50, latency_ms_p90, latency_ms_p99 : float or None
        None if the queries are too few to resolve it, and in Offline.
    percentile, latency_ms_target : float, float or None
        The percentile of the scenario's criterion, and the latency at it.
    target_per_s, latency_bound_ms : float or None
        Server: the mean arrival rate, and the bound on ``latency_ms_target``.
    latencies_ms : array [queries]
        In the order of issue.
    log, logs : LoadGenLog, Path or None
        LoadGen's summary and figures, and the folder of its files if they were kept.
    conditions, notes
        System load during the test, and caveats.
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
        percentiles = (("p50", self.latency_ms_p50), ("p90", self.latency_ms_p90), ("p99", self.latency_ms_p99))
        latencies = ", ".join(f"{name} {ms:.3g} ms" for name, ms in percentiles if ms is not None)
        rows = f" of {self.samples_per_query:,} rows" if self.samples_per_query > 1 else ""
        count = f"{self.queries:,} {'query' if self.queries == 1 else 'queries'}{rows}"
        offered = "" if self.target_per_s is None else f" of {self.target_per_s:.4g} offered"
        lines = [
            f"{self.scenario} on {self.backend}: {self.samples_per_s:.4g} samples per s{offered}"
            f"{'; ' + latencies if latencies else ''} ({count})",
            f"  LoadGen: {'VALID' if self.valid else 'INVALID'}",
            *(f"  invalid: {reason}" for reason in self.reasons),
            f"  system load: {self.conditions}",
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
    """Run one MLPerf LoadGen scenario against an engine.

    The engine is warmed up and called on this thread, in Server on the batcher's threads. Latencies include LoadGen's
    Python binding, about 5 µs per query; time calls below 0.1 ms with :func:`workbench.time_calls`.

    Parameters
    ----------
    engine : OptimizedInferenceEngine
        An initialized engine.
    samples : array, tuple or dict, or Task
        Inputs of predict with a leading dimension ``[n, ...]``; queries refer to its rows. A task stands for its
        examples.
    scenario : str
        ``"single-stream"``: one row per ``predict``, sequentially. ``"multi-stream"``: ``samples_per_query`` rows per
        ``predict``, sequentially, including the assembly of the batch. ``"offline"``: all rows at once, by
        ``predict_batch`` in calls of ``engine.call_size``. ``"server"``: single rows with Poisson arrivals at
        ``target_per_s``, batched dynamically by ``engine.batcher``.
    duration_s : float
        Minimum seconds for which LoadGen issues queries.
    target_per_s, latency_bound_ms : float
        Required for Server, and only valid there.
    percentile : float, optional
        Percentile of the criterion, 0 to 1; by default MLPerf's: 0.9 in SingleStream, otherwise 0.99.
    max_wait_ms : float
        Server only: how long an idle engine waits for more rows.
    logs : path, optional
        Keep LoadGen's files in this folder and overwrite those of an earlier test.

    Raises
    ------
    PackageMissing
        If mlcommons-loadgen is not installed.
    Exception
        An exception of the engine, or KeyboardInterrupt, after LoadGen's test has ended.

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
    with prepared_sut(engine, rows, load, max_wait_ms=max_wait_ms) as (system, expected):
        watch = LoadMonitor(gpu=runs_on_gpu(getattr(engine, "placement", "")))
        log = run_load(expected, system, count=rows.count, logs=folder)
        conditions = watch.lap()
    backend = str(getattr(engine, "backend", "engine"))
    return _result(scenario, expected, system.seconds, log, conditions, backend, folder)


def require_percentile(where: str, value: Any) -> float:
    """Return a percentile, or raise ConfigError unless it is in [0.5, 1)."""
    if isinstance(value, bool) or not isinstance(value, float) or not 0.5 <= value < 1:
        raise ConfigError(f"{where} must be in [0.5, 1), such as 0.99, got {given(value)}.")
    return value


def _load(
    scenario: Any, duration_s: Any, samples_per_query: Any, target: Any, bound: Any, percentile: Any, seed: Any
) -> Load:
    if not isinstance(scenario, str) or scenario not in SCENARIOS:
        raise ConfigError(unknown_name("scenario", scenario, SCENARIOS))
    server = scenario == "server"
    for name, value in (("target_per_s", target), ("latency_bound_ms", bound)):
        if server == (value is None):
            rule = f"scenario='server' requires {name}" if server else f"{name} is valid for scenario='server' only"
            raise ConfigError(f"run_scenario: {rule}, got scenario={scenario!r} and {name}={given(value)}.")
    require_int("run_scenario: samples_per_query", samples_per_query)
    seconds = require_positive("run_scenario: duration_s", duration_s, unit="seconds")
    if percentile is None:
        percentile = 0.9 if scenario == "single-stream" else 0.99  # MLPerf's
    quantile = require_percentile("run_scenario: percentile", percentile)
    return Load(
        SCENARIOS[scenario],
        seconds,
        require_positive("run_scenario: target_per_s", target, unit="samples per second") if server else 1.0,
        samples_per_query if scenario == "multi-stream" else 1,
        quantile,
        require_positive("run_scenario: latency_bound_ms", bound, unit="milliseconds") if server else 0.0,
        seed=require_int("run_scenario: seed", seed, minimum=0),
    )


def _result(
    scenario: str, load: Load, seconds: float, log: LoadGenLog, conditions: Conditions, backend: str, logs: Path | None
) -> ScenarioResult:
    server, queries = scenario == "server", log.latencies_ms.size
    p50, p90, p99 = (_percentile(log, q, per_query=scenario == "multi-stream") for q in _QUANTILES)
    per_s = _PER_S.get(scenario)
    return ScenarioResult(
        scenario=scenario,
        backend=backend,
        valid=log.valid,
        reasons=log.reasons,
        queries=queries,
        samples_per_query=round(log.samples / queries),
        duration_s=seconds,
        samples_per_s=float(log.detail[per_s]) if per_s else log.samples / seconds,
        latency_ms_p50=p50,
        latency_ms_p90=p90,
        latency_ms_p99=p99,
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
    """Return the latency at a percentile by LoadGen's rank, None if the queries do not resolve it."""
    if quantile_bounds(latencies_ms.size, percentile) is None:
        return None
    return float(np.sort(latencies_ms)[int(latencies_ms.size * percentile)])


def _percentile(log: LoadGenLog, percentile: float, *, per_query: bool) -> float | None:
    if quantile_bounds(log.latencies_ms.size, percentile) is None:
        return None
    return log.ms(f"result_{100 * percentile:.2f}_percentile_{'per_query_' if per_query else ''}latency_ns")


def _notes(load: Load, log: LoadGenLog, conditions: Conditions) -> tuple[str, ...]:
    notes = []
    if load.duration_s < _SUBMISSION_S:
        notes.append(
            f"not an MLPerf result: the test is shorter than {_SUBMISSION_S} s, and other rules were not checked."
        )
    unresolved = [f"p{100 * q:g}" for q in _QUANTILES if quantile_bounds(log.latencies_ms.size, q) is None]
    if load.scenario == "Offline":
        notes.append("no latency percentiles: Offline issues all samples at once.")
    elif unresolved:
        notes.append(f"{log.latencies_ms.size} queries do not resolve {', '.join(unresolved)}.")
    if conditions.reasons:
        notes.append(f"disturbed: {', '.join(conditions.reasons)}. Re-run on an idle machine.")
    return tuple(notes)
