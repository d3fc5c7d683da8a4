__version__: str
from . import (
    artifact as artifact,
    compress as compress,
    engine as engine,
    export as export,
    measure as measure,
    plots as plots,
    report as report,
    study as study,
    tasks as tasks,
    timing as timing,
    widgets as widgets,
)
from .artifact.cache import PrefixCache as PrefixCache
from .artifact.save import save_variant as save_variant
from .compress.apply import apply as apply
from .compress.recipe import Recipe as Recipe, sweep as sweep
from .compress.sensitivity import sensitivity as sensitivity
from .compress.steps import (
    Distill as Distill,
    Factorize as Factorize,
    Prune as Prune,
    PruneDepth as PruneDepth,
    Quantize as Quantize,
    Recover as Recover,
    Sparsify as Sparsify,
)
from .compress.variant import Variant as Variant
from .engine.config import InferenceConfig as InferenceConfig, QuantizationConfig as QuantizationConfig
from .engine.engine import OptimizedInferenceEngine as OptimizedInferenceEngine
from .engine.inference_model import InferenceModel as InferenceModel, load_variant as load_variant
from .engine.precision import Precision as Precision
from .measure.accuracy.debug import debug_accuracy as debug_accuracy
from .measure.bottlenecks.explanation import compare_profiles as compare_profiles, explain as explain
from .measure.comparison.calls import time_calls as time_calls
from .measure.comparison.compare import compare as compare
from .measure.comparison.latency_cost import latency_cost as latency_cost
from .measure.comparison.noise import measure_noise as measure_noise
from .measure.loadgen.scenarios import run_scenario as run_scenario
from .measure.loadgen.server_rate import find_server_rate as find_server_rate
from .measure.profiling.profile import profile as profile
from .measure.resources.energy import measure_energy as measure_energy
from .measure.resources.memory import trace_allocations as trace_allocations
from .measure.resources.monitor import Monitor as Monitor
from .measure.rooflines.peaks import measure_peaks as measure_peaks
from .measure.rooflines.roofline import roofline as roofline
from .report.run import run_report as run_report
from .study.config import RunConfig as RunConfig
from .study.execution.allocators import time_allocators as time_allocators
from .study.search.domain import between as between, choice as choice, maybe as maybe, vary as vary
from .study.search.goals import Goals as Goals
from .study.search.space import Space as Space
from .study.study import Study as Study
from .tasks.load import load_task as load_task
from .tasks.task import Task as Task
from .widgets.panel import Workbench as Workbench
