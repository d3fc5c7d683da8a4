from .accuracy.debug import AccuracyReport as AccuracyReport, debug_accuracy as debug_accuracy
from .bottlenecks.explanation import (
    Explanation as Explanation,
    ProfileComparison as ProfileComparison,
    compare_profiles as compare_profiles,
    explain as explain,
)
from .comparison.calls import CallTime as CallTime, time_calls as time_calls
from .comparison.compare import Comparison as Comparison, compare as compare
from .comparison.noise import NoiseFloor as NoiseFloor, cached_noise as cached_noise, measure_noise as measure_noise
from .loadgen.scenarios import ScenarioResult as ScenarioResult, run_scenario as run_scenario
from .loadgen.server_rate import ServerRate as ServerRate, find_server_rate as find_server_rate
from .profiling.nvtx import nsight_command as nsight_command
from .profiling.profile import profile as profile
from .profiling.rows import LayerTime as LayerTime, Profile as Profile
from .resources.energy import (
    CallEnergy as CallEnergy,
    Energy as Energy,
    EnergyMeter as EnergyMeter,
    measure_energy as measure_energy,
)
from .resources.memory import (
    Allocations as Allocations,
    PeakPss as PeakPss,
    peak_rss_mib as peak_rss_mib,
    pss_mib as pss_mib,
    torch_call_peak_mib as torch_call_peak_mib,
    trace_allocations as trace_allocations,
)
from .resources.monitor import Monitor as Monitor
from .rooflines.peaks import MachinePeaks as MachinePeaks, cached_peaks as cached_peaks, measure_peaks as measure_peaks
from .rooflines.roofline import RooflinePoint as RooflinePoint, roofline as roofline
