"""Measurement: warm-up, interleaved blocks, comparisons with an interval, memory, energy. Needs numpy and psutil."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_HOMES = {
    "AccuracyReport": "debug",
    "Allocations": "allocations",
    "CallEnergy": "energy",
    "CallTime": "calls",
    "Comparison": "compare",
    "Conditions": "conditions",
    "Energy": "energy",
    "EnergyMeter": "energy",
    "GpuMemory": "gpus",
    "Monitor": "monitor",
    "NoiseFloor": "noise",
    "ScenarioResult": "scenarios",
    "ServerRate": "server_rate",
    "PeakPss": "memory",
    "Explanation": "explanation",
    "LayerTime": "profile_rows",
    "MachinePeaks": "peaks",
    "Profile": "profile_rows",
    "ProfileComparison": "explanation",
    "RooflinePoint": "rooflines",
    "Timing": "timing",
    "Watch": "conditions",
    "compare": "compare",
    "compare_profiles": "explanation",
    "debug_accuracy": "debug",
    "find_server_rate": "server_rate",
    "gpu_devices": "gpus",
    "known_noise": "noise",
    "measure_energy": "energy",
    "explain": "explanation",
    "known_peaks": "peaks",
    "measure_noise": "noise",
    "measure_peaks": "peaks",
    "nsight_command": "nvtx",
    "peak_rss_mib": "memory",
    "run_scenario": "scenarios",
    "pss_mib": "memory",
    "profile": "profiles",
    "roofline": "rooflines",
    "time_calls": "calls",
    "torch_call_peak_mib": "torch_memory",
    "trace_allocations": "allocations",
}

__all__ = [
    "AccuracyReport",
    "Allocations",
    "CallEnergy",
    "CallTime",
    "Comparison",
    "Conditions",
    "Energy",
    "EnergyMeter",
    "Explanation",
    "GpuMemory",
    "LayerTime",
    "MachinePeaks",
    "Monitor",
    "NoiseFloor",
    "PeakPss",
    "Profile",
    "ProfileComparison",
    "RooflinePoint",
    "ScenarioResult",
    "ServerRate",
    "Timing",
    "Watch",
    "compare",
    "compare_profiles",
    "debug_accuracy",
    "explain",
    "find_server_rate",
    "gpu_devices",
    "known_noise",
    "known_peaks",
    "measure_energy",
    "measure_noise",
    "measure_peaks",
    "nsight_command",
    "peak_rss_mib",
    "profile",
    "pss_mib",
    "roofline",
    "run_scenario",
    "time_calls",
    "torch_call_peak_mib",
    "trace_allocations",
]

if TYPE_CHECKING:
    from workbench.measure.accuracy.debug import AccuracyReport, debug_accuracy
    from workbench.measure.compare.calls import CallTime, time_calls
    from workbench.measure.compare.compare import Comparison, compare
    from workbench.measure.compare.conditions import Conditions, Watch
    from workbench.measure.compare.noise import NoiseFloor, known_noise, measure_noise
    from workbench.measure.loadgen.scenarios import ScenarioResult, run_scenario
    from workbench.measure.loadgen.server_rate import ServerRate, find_server_rate
    from workbench.measure.profiling.explanation import Explanation, ProfileComparison, compare_profiles, explain
    from workbench.measure.profiling.nvtx import nsight_command
    from workbench.measure.profiling.profile import profile
    from workbench.measure.profiling.rows import LayerTime, Profile
    from workbench.measure.resources.allocations import Allocations, trace_allocations
    from workbench.measure.resources.energy import CallEnergy, Energy, EnergyMeter, measure_energy
    from workbench.measure.resources.gpus import GpuMemory, gpu_devices
    from workbench.measure.resources.memory import PeakPss, peak_rss_mib, pss_mib
    from workbench.measure.resources.monitor import Monitor
    from workbench.measure.resources.torch_memory import torch_call_peak_mib
    from workbench.measure.roofline.peaks import MachinePeaks, known_peaks, measure_peaks
    from workbench.measure.roofline.roofline import RooflinePoint, roofline
    from workbench.timing.blocks_in_turns import Timing


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # importing the submodule compare binds the module under the function's name: bind the function over it
    globals()[name] = attribute(f"{__name__}.{_HOMES[name]}", name)
    return globals()[name]
