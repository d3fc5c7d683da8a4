"""Charts: tidy data apart from drawing. Take rows (dicts, a DataFrame or a Study) or events, return Figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute

_WHERE = {
    "calls_data": "calls",
    "figure_png": "canvas",
    "layer_rounding_data": "modes",
    "layer_sqnr_data": "signals",
    "memory_data": "memory",
    "plot_amounts": "amounts",
    "plot_calls": "calls",
    "plot_layer_rounding": "modes",
    "plot_layer_sqnr": "signals",
    "plot_memory": "memory",
    "plot_precisions": "precisions",
    "plot_pruning": "pruning",
    "plot_quantize_modes": "modes",
    "plot_rank_energy": "ways",
    "plot_search": "search",
    "plot_sensitivity": "heatmap",
    "plot_sweep": "sweep",
    "plot_throughput": "throughput",
    "plot_tradeoff": "tradeoff",
    "plot_training": "training",
    "plot_tuning": "tuning",
    "plot_waterfall": "waterfall",
    "plot_ways": "ways",
    "precision_data": "precisions",
    "pruning_data": "pruning",
    "quantize_modes_data": "modes",
    "rank_energy_data": "ways",
    "search_data": "search",
    "sensitivity_data": "heatmap",
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
    "figure_png",
    "layer_rounding_data",
    "layer_sqnr_data",
    "memory_data",
    "plot_amounts",
    "plot_calls",
    "plot_layer_rounding",
    "plot_layer_sqnr",
    "plot_memory",
    "plot_precisions",
    "plot_pruning",
    "plot_quantize_modes",
    "plot_rank_energy",
    "plot_search",
    "plot_sensitivity",
    "plot_sweep",
    "plot_throughput",
    "plot_tradeoff",
    "plot_training",
    "plot_tuning",
    "plot_waterfall",
    "plot_ways",
    "precision_data",
    "pruning_data",
    "quantize_modes_data",
    "rank_energy_data",
    "search_data",
    "sensitivity_data",
    "sweep_data",
    "throughput_data",
    "tradeoff_data",
    "training_data",
    "tuning_data",
    "waterfall_data",
    "ways_data",
]

if TYPE_CHECKING:
    from workbench.plots.amounts import plot_amounts
    from workbench.plots.calls import calls_data, plot_calls
    from workbench.plots.canvas import figure_png
    from workbench.plots.heatmap import plot_sensitivity, sensitivity_data
    from workbench.plots.memory import memory_data, plot_memory
    from workbench.plots.modes import (
        layer_rounding_data,
        plot_layer_rounding,
        plot_quantize_modes,
        quantize_modes_data,
    )
    from workbench.plots.precisions import plot_precisions, precision_data
    from workbench.plots.pruning import plot_pruning, pruning_data
    from workbench.plots.search import plot_search, search_data
    from workbench.plots.signals import layer_sqnr_data, plot_layer_sqnr
    from workbench.plots.sweep import plot_sweep, sweep_data
    from workbench.plots.throughput import plot_throughput, throughput_data
    from workbench.plots.tradeoff import plot_tradeoff, tradeoff_data
    from workbench.plots.training import plot_training, training_data
    from workbench.plots.tuning import plot_tuning, tuning_data
    from workbench.plots.waterfall import plot_waterfall, waterfall_data
    from workbench.plots.ways import plot_rank_energy, plot_ways, rank_energy_data, ways_data


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'workbench.plots' has no attribute {name!r}")
    return attribute(f"workbench.plots.{_WHERE[name]}", name)


def __dir__() -> list[str]:
    return sorted(__all__)
