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
    "Explanation": "explanation",
    "LayerTime": "profile_rows",
    "MachinePeaks": "peaks",
    "NoiseFloor": "noise",
    "Profile": "profile_rows",
    "ProfileComparison": "explanation",
    "RooflinePoint": "rooflines",
    "Timing": "timing",
    "Watch": "conditions",
    "compare": "compare",
    "compare_profiles": "explanation",
    "debug_accuracy": "debug",
    "explain": "explanation",
    "known_noise": "noise",
    "known_peaks": "peaks",
    "measure_noise": "noise",
    "measure_peaks": "peaks",
    "nsight_command": "nvtx",
    "peak_rss_mib": "memory",
    "profile": "profiles",
    "roofline": "rooflines",
    "time_calls": "calls",
    "trace_allocations": "allocations",
}

__all__ = [
    "AccuracyReport",
    "Allocations",
    "CallTime",
    "Comparison",
    "Conditions",
    "Explanation",
    "LayerTime",
    "MachinePeaks",
    "NoiseFloor",
    "Profile",
    "ProfileComparison",
    "RooflinePoint",
    "Timing",
    "Watch",
    "compare",
    "compare_profiles",
    "debug_accuracy",
    "explain",
    "known_noise",
    "known_peaks",
    "measure_noise",
    "measure_peaks",
    "nsight_command",
    "peak_rss_mib",
    "profile",
    "roofline",
    "time_calls",
    "trace_allocations",
]

if TYPE_CHECKING:
    from workbench.measure.allocations import Allocations, trace_allocations
    from workbench.measure.calls import CallTime, time_calls
    from workbench.measure.compare import Comparison, compare
    from workbench.measure.conditions import Conditions, Watch
    from workbench.measure.debug import AccuracyReport, debug_accuracy
    from workbench.measure.explanation import Explanation, ProfileComparison, compare_profiles, explain
    from workbench.measure.memory import peak_rss_mib
    from workbench.measure.noise import NoiseFloor, known_noise, measure_noise
    from workbench.measure.nvtx import nsight_command
    from workbench.measure.peaks import MachinePeaks, known_peaks, measure_peaks
    from workbench.measure.profile_rows import LayerTime, Profile
    from workbench.measure.profiles import profile
    from workbench.measure.rooflines import RooflinePoint, roofline
    from workbench.measure.timing import Timing


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # importing the submodule compare binds the module under the function's name: bind the function over it
    globals()[name] = attribute(f"{__name__}.{_HOMES[name]}", name)
    return globals()[name]
