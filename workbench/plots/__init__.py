"""Charts: tidy data apart from drawing. Take rows (dicts, a DataFrame or a Study) or events, return Figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_WHERE = {
    "calls_data": "calls",
    "cluster_data": "cluster",
    "figure_png": "canvas",
    "layer_rounding_data": "modes",
    "layer_sqnr_data": "signals",
    "memory_data": "memory",
    "monitor_data": "monitor",
    "plot_amounts": "amounts",
    "plot_calls": "calls",
    "plot_cluster": "cluster",
    "plot_comparison": "comparison",
    "plot_layer_rounding": "modes",
    "plot_layer_sqnr": "signals",
    "plot_memory": "memory",
    "plot_noise": "comparison",
    "plot_monitor": "monitor",
    "plot_precisions": "precisions",
    "plot_profile": "profiles",
    "plot_profiles": "profiles",
    "plot_pruning": "pruning",
    "plot_quantize_modes": "modes",
    "plot_rank_energy": "ways",
    "plot_scenarios": "scenarios",
    "plot_roofline": "rooflines",
    "plot_search": "search",
    "plot_sensitivity": "heatmap",
    "plot_server_rate": "scenarios",
    "plot_sweep": "sweep",
    "plot_throughput": "throughput",
    "plot_tradeoff": "tradeoff",
    "plot_training": "training",
    "plot_tuning": "tuning",
    "plot_waterfall": "waterfall",
    "plot_ways": "ways",
    "precision_data": "precisions",
    "profile_data": "profiles",
    "profiles_data": "profiles",
    "pruning_data": "pruning",
    "quantize_modes_data": "modes",
    "rank_energy_data": "ways",
    "scenario_data": "scenarios",
    "roofline_data": "rooflines",
    "search_data": "search",
    "sensitivity_data": "heatmap",
    "server_rate_data": "scenarios",
    "sweep_data": "sweep",
    "throughput_data": "throughput",
    "tradeoff_data": "tradeoff",
    "training_data": "training",
    "tuning_data": "tuning",
    "waterfall_data": "waterfall",
    "ways_data": "ways",
}

__all__ = [
    "calls_data",
    "cluster_data",
    "figure_png",
    "layer_rounding_data",
    "layer_sqnr_data",
    "memory_data",
    "monitor_data",
    "plot_amounts",
    "plot_calls",
    "plot_cluster",
    "plot_comparison",
    "plot_layer_rounding",
    "plot_layer_sqnr",
    "plot_memory",
    "plot_monitor",
    "plot_noise",
    "plot_precisions",
    "plot_profile",
    "plot_profiles",
    "plot_pruning",
    "plot_quantize_modes",
    "plot_rank_energy",
    "plot_roofline",
    "plot_scenarios",
    "plot_search",
    "plot_sensitivity",
    "plot_server_rate",
    "plot_sweep",
    "plot_throughput",
    "plot_tradeoff",
    "plot_training",
    "plot_tuning",
    "plot_waterfall",
    "plot_ways",
    "precision_data",
    "profile_data",
    "profiles_data",
    "pruning_data",
    "quantize_modes_data",
    "rank_energy_data",
    "roofline_data",
    "scenario_data",
    "search_data",
    "sensitivity_data",
    "server_rate_data",
    "sweep_data",
    "throughput_data",
    "tradeoff_data",
    "training_data",
    "tuning_data",
    "waterfall_data",
    "ways_data",
]

if TYPE_CHECKING:
    from workbench.plots.charts.amounts import plot_amounts
    from workbench.plots.charts.calls import calls_data, plot_calls
    from workbench.plots.charts.cluster import cluster_data, plot_cluster
    from workbench.plots.charts.comparison import plot_comparison, plot_noise
    from workbench.plots.charts.compression_methods import plot_rank_energy, plot_ways, rank_energy_data, ways_data
    from workbench.plots.charts.heatmap import plot_sensitivity, sensitivity_data
    from workbench.plots.charts.memory import memory_data, plot_memory
    from workbench.plots.charts.monitor import monitor_data, plot_monitor
    from workbench.plots.charts.precisions import plot_precisions, precision_data
    from workbench.plots.charts.profiles import plot_profile, plot_profiles, profile_data, profiles_data
    from workbench.plots.charts.pruning import plot_pruning, pruning_data
    from workbench.plots.charts.quantize_modes import (
        layer_rounding_data,
        plot_layer_rounding,
        plot_quantize_modes,
        quantize_modes_data,
    )
    from workbench.plots.charts.rooflines import plot_roofline, roofline_data
    from workbench.plots.charts.scenarios import plot_scenarios, plot_server_rate, scenario_data, server_rate_data
    from workbench.plots.charts.search import plot_search, search_data
    from workbench.plots.charts.signals import layer_sqnr_data, plot_layer_sqnr
    from workbench.plots.charts.sweep import plot_sweep, sweep_data
    from workbench.plots.charts.throughput import plot_throughput, throughput_data
    from workbench.plots.charts.tradeoff import plot_tradeoff, tradeoff_data
    from workbench.plots.charts.training import plot_training, training_data
    from workbench.plots.charts.tuning import plot_tuning, tuning_data
    from workbench.plots.charts.waterfall import plot_waterfall, waterfall_data
    from workbench.plots.drawing.figure import figure_png


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'workbench.plots' has no attribute {name!r}")
    return attribute(f"workbench.plots.{_WHERE[name]}", name)


def __dir__() -> list[str]:
    return sorted(__all__)
