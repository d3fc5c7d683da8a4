from .charts.compress.methods import (
    compression_methods_data as compression_methods_data,
    plot_compression_methods as plot_compression_methods,
    plot_pruning as plot_pruning,
    plot_rank_energy as plot_rank_energy,
    pruning_data as pruning_data,
    rank_energy_data as rank_energy_data,
)
from .charts.compress.quantize import (
    layer_rounding_data as layer_rounding_data,
    plot_layer_rounding as plot_layer_rounding,
    plot_quantize_modes as plot_quantize_modes,
    quantize_modes_data as quantize_modes_data,
)
from .charts.compress.sensitivity import plot_sensitivity as plot_sensitivity, sensitivity_data as sensitivity_data
from .charts.compress.training import plot_training as plot_training, training_data as training_data
from .charts.measure.accuracy import (
    layer_sqnr_data as layer_sqnr_data,
    plot_layer_sqnr as plot_layer_sqnr,
    plot_precisions as plot_precisions,
    precision_data as precision_data,
)
from .charts.measure.calls import (
    calls_data as calls_data,
    plot_bars as plot_bars,
    plot_calls as plot_calls,
    plot_sweep as plot_sweep,
    sweep_data as sweep_data,
)
from .charts.measure.comparison import (
    plot_comparison as plot_comparison,
    plot_noise as plot_noise,
    plot_tuning as plot_tuning,
    tuning_data as tuning_data,
)
from .charts.measure.monitor import monitor_data as monitor_data, plot_monitor as plot_monitor
from .charts.measure.profiles import (
    plot_profile as plot_profile,
    plot_profiles as plot_profiles,
    profile_data as profile_data,
    profiles_data as profiles_data,
)
from .charts.measure.rooflines import plot_roofline as plot_roofline, roofline_data as roofline_data
from .charts.measure.scenarios import (
    plot_scenarios as plot_scenarios,
    plot_server_rate as plot_server_rate,
    scenario_data as scenario_data,
    server_rate_data as server_rate_data,
)
from .charts.study.cluster import cluster_data as cluster_data, plot_cluster as plot_cluster
from .charts.study.curves import (
    params_data as params_data,
    plot_params as plot_params,
    plot_throughput as plot_throughput,
    throughput_data as throughput_data,
)
from .charts.study.search import plot_search as plot_search, search_data as search_data
from .charts.study.tradeoff import (
    memory_data as memory_data,
    plot_memory as plot_memory,
    plot_tradeoff as plot_tradeoff,
    tradeoff_data as tradeoff_data,
)
from .charts.study.waterfall import plot_waterfall as plot_waterfall, waterfall_data as waterfall_data
from .drawing.figure import figure_png as figure_png
