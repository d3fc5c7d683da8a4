"""Inference workbench: how fast, how small and how good a PyTorch model can be on the machine it must run on.

>>> import workbench as wb
>>> task = wb.tasks.digits()
>>> recipe = wb.Recipe(wb.Prune(ratio=0.5), wb.Distill(epochs=3), wb.Quantize())
>>> variant = recipe.apply(task)  # doctest: +SKIP

Everything is loaded on first use, so that ``import workbench`` loads neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from workbench.core.lazy import attribute as _attribute

__version__ = "0.1.0"

# ONNX Runtime reports to its maker and writes a device id into the home folder unless this is set before it starts
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_FACE = {
    "Task": "workbench.tasks.task",
    "load_task": "workbench.tasks.load",
    "Prune": "workbench.compress.steps",
    "PruneDepth": "workbench.compress.steps",
    "Distill": "workbench.compress.steps",
    "Factorize": "workbench.compress.steps",
    "Quantize": "workbench.compress.steps",
    "Recover": "workbench.compress.steps",
    "Sparsify": "workbench.compress.steps",
    "Recipe": "workbench.compress.recipe",
    "Variant": "workbench.compress.variant",
    "sensitivity": "workbench.compress.sensitivity",
    "PrefixCache": "workbench.artifact.cache",
    "load_variant": "workbench.artifact.restore",
    "InferenceModel": "workbench.artifact.restore",
    "InferenceConfig": "workbench.engine.config",
    "QuantizationConfig": "workbench.engine.config",
    "Precision": "workbench.engine.precision",
    "OptimizedInferenceEngine": "workbench.engine.engine",
    "compare": "workbench.measure.compare.compare",
    "time_calls": "workbench.measure.compare.calls",
    "measure_energy": "workbench.measure.resources.energy",
    "measure_noise": "workbench.measure.compare.noise",
    "run_scenario": "workbench.measure.loadgen.scenarios",
    "find_server_rate": "workbench.measure.loadgen.server_rate",
    "Monitor": "workbench.measure.resources.monitor",
    "compare_profiles": "workbench.measure.profiling.explanation",
    "explain": "workbench.measure.profiling.explanation",
    "measure_peaks": "workbench.measure.roofline.peaks",
    "profile": "workbench.measure.profiling.profile",
    "roofline": "workbench.measure.roofline.roofline",
    "trace_allocations": "workbench.measure.resources.allocations",
    "debug_accuracy": "workbench.measure.accuracy.debug",
    "Study": "workbench.study.study",
    "latency_cost": "workbench.measure.compare.latency_cost",
    "time_allocators": "workbench.study.execution.allocators",
    "Goals": "workbench.study.search.goals",
    "Space": "workbench.study.search.space",
    "between": "workbench.study.search.domain",
    "choice": "workbench.study.search.domain",
    "maybe": "workbench.study.search.domain",
    "vary": "workbench.study.search.domain",
    "run_report": "workbench.report.run",
    "Workbench": "workbench.widgets.panel",
}
_ROOMS = ("tasks", "compress", "export", "artifact", "engine", "measure", "study", "plots", "report", "widgets")

__all__ = [
    "Distill",
    "Factorize",
    "Goals",
    "InferenceConfig",
    "InferenceModel",
    "Monitor",
    "OptimizedInferenceEngine",
    "Precision",
    "PrefixCache",
    "Prune",
    "PruneDepth",
    "QuantizationConfig",
    "Quantize",
    "Recipe",
    "Recover",
    "Space",
    "Sparsify",
    "Study",
    "Task",
    "Variant",
    "Workbench",
    "__version__",
    "artifact",
    "between",
    "choice",
    "compare",
    "compare_profiles",
    "compress",
    "debug_accuracy",
    "engine",
    "explain",
    "export",
    "find_server_rate",
    "latency_cost",
    "load_task",
    "load_variant",
    "maybe",
    "measure",
    "measure_energy",
    "measure_noise",
    "measure_peaks",
    "plots",
    "profile",
    "report",
    "roofline",
    "run_report",
    "run_scenario",
    "sensitivity",
    "study",
    "tasks",
    "time_allocators",
    "time_calls",
    "trace_allocations",
    "vary",
    "widgets",
]

if TYPE_CHECKING:
    from workbench import artifact, compress, engine, export, measure, plots, report, study, tasks, widgets
    from workbench.artifact.cache import PrefixCache
    from workbench.artifact.restore import InferenceModel, load_variant
    from workbench.compress.recipe import Recipe
    from workbench.compress.sensitivity import sensitivity
    from workbench.compress.steps import Distill, Factorize, Prune, PruneDepth, Quantize, Recover, Sparsify
    from workbench.compress.variant import Variant
    from workbench.engine.config import InferenceConfig, QuantizationConfig
    from workbench.engine.engine import OptimizedInferenceEngine
    from workbench.engine.precision import Precision
    from workbench.measure.accuracy.debug import debug_accuracy
    from workbench.measure.compare.calls import time_calls
    from workbench.measure.compare.compare import compare
    from workbench.measure.compare.latency_cost import latency_cost
    from workbench.measure.compare.noise import measure_noise
    from workbench.measure.loadgen.scenarios import run_scenario
    from workbench.measure.loadgen.server_rate import find_server_rate
    from workbench.measure.profiling.explanation import compare_profiles, explain
    from workbench.measure.profiling.profile import profile
    from workbench.measure.resources.allocations import trace_allocations
    from workbench.measure.resources.energy import measure_energy
    from workbench.measure.resources.monitor import Monitor
    from workbench.measure.roofline.peaks import measure_peaks
    from workbench.measure.roofline.roofline import roofline
    from workbench.report.run import run_report
    from workbench.study.execution.allocators import time_allocators
    from workbench.study.search.domain import between, choice, maybe, vary
    from workbench.study.search.goals import Goals
    from workbench.study.search.space import Space
    from workbench.study.study import Study
    from workbench.tasks.load import load_task
    from workbench.tasks.task import Task
    from workbench.widgets.panel import Workbench


def __getattr__(name: str) -> Any:
    if name in _FACE:
        value = _attribute(_FACE[name], name)
    elif name in _ROOMS:
        value = importlib.import_module(f"workbench.{name}")
    else:
        from workbench.core.errors import did_you_mean

        raise AttributeError(f"module 'workbench' has no attribute {name!r}.{did_you_mean(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
