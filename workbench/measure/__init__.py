"""Measurement: steady warm-up, interleaved blocks, comparisons with an interval, peak memory. Needs numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_HOMES = {
    "AccuracyReport": "debug",
    "Allocations": "allocations",
    "CallTime": "calls",
    "Comparison": "compare",
    "Conditions": "conditions",
    "NoiseFloor": "noise",
    "ScenarioResult": "scenarios",
    "ServerRate": "server_rate",
    "Timing": "timing",
    "Watch": "conditions",
    "compare": "compare",
    "debug_accuracy": "debug",
    "find_server_rate": "server_rate",
    "known_noise": "noise",
    "measure_noise": "noise",
    "peak_rss_mib": "memory",
    "run_scenario": "scenarios",
    "time_calls": "calls",
    "trace_allocations": "allocations",
}

__all__ = [
    "AccuracyReport",
    "Allocations",
    "CallTime",
    "Comparison",
    "Conditions",
    "NoiseFloor",
    "ScenarioResult",
    "ServerRate",
    "Timing",
    "Watch",
    "compare",
    "debug_accuracy",
    "find_server_rate",
    "known_noise",
    "measure_noise",
    "peak_rss_mib",
    "run_scenario",
    "time_calls",
    "trace_allocations",
]

if TYPE_CHECKING:
    from workbench.measure.allocations import Allocations, trace_allocations
    from workbench.measure.calls import CallTime, time_calls
    from workbench.measure.compare import Comparison, compare
    from workbench.measure.conditions import Conditions, Watch
    from workbench.measure.debug import AccuracyReport, debug_accuracy
    from workbench.measure.memory import peak_rss_mib
    from workbench.measure.noise import NoiseFloor, known_noise, measure_noise
    from workbench.measure.scenarios import ScenarioResult, run_scenario
    from workbench.measure.server_rate import ServerRate, find_server_rate
    from workbench.measure.timing import Timing


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # importing the submodule compare binds the module under the function's name: bind the function over it
    globals()[name] = attribute(f"{__name__}.{_HOMES[name]}", name)
    return globals()[name]
