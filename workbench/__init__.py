"""Inference workbench: how fast, how small and how good a PyTorch model can be on the machine it must run on.

>>> import workbench as wb
>>> task = wb.tasks.digits()
>>> recipe = wb.Recipe(wb.Prune(ratio=0.5), wb.Distill(epochs=3), wb.Quantize())
>>> variant = recipe.apply(task)  # doctest: +SKIP

Everything is loaded on first use, so that ``import workbench`` loads neither torch nor a runtime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_FACE = {
    "Task": "workbench.tasks.task",
    "load_task": "workbench.tasks.load",
    "Prune": "workbench.compress.steps",
    "Distill": "workbench.compress.steps",
    "Factorize": "workbench.compress.steps",
    "Quantize": "workbench.compress.steps",
    "Recover": "workbench.compress.steps",
    "Recipe": "workbench.compress.recipe",
    "Variant": "workbench.compress.variant",
    "sensitivity": "workbench.compress.sensitivity",
    "InferenceConfig": "workbench.engine.config",
    "QuantizationConfig": "workbench.engine.config",
    "OptimizedInferenceEngine": "workbench.engine.engine",
    "compare": "workbench.measure.compare",
    "Study": "workbench.study.study",
    "run_report": "workbench.report.run",
    "Workbench": "workbench.widgets.panel",
}
_ROOMS = ("tasks", "compress", "export", "artifact", "engine", "measure", "study", "plots", "report", "widgets")

__all__ = [
    "Distill",
    "Factorize",
    "InferenceConfig",
    "OptimizedInferenceEngine",
    "Prune",
    "QuantizationConfig",
    "Quantize",
    "Recipe",
    "Recover",
    "Study",
    "Task",
    "Variant",
    "Workbench",
    "__version__",
    "artifact",
    "compare",
    "compress",
    "engine",
    "export",
    "load_task",
    "measure",
    "plots",
    "report",
    "run_report",
    "sensitivity",
    "study",
    "tasks",
    "widgets",
]

if TYPE_CHECKING:
    from workbench import artifact, compress, engine, export, measure, plots, report, study, tasks, widgets
    from workbench.compress.recipe import Recipe
    from workbench.compress.sensitivity import sensitivity
    from workbench.compress.steps import Distill, Factorize, Prune, Quantize, Recover
    from workbench.compress.variant import Variant
    from workbench.engine.config import InferenceConfig, QuantizationConfig
    from workbench.engine.engine import OptimizedInferenceEngine
    from workbench.measure.compare import compare
    from workbench.report.run import run_report
    from workbench.study.study import Study
    from workbench.tasks.load import load_task
    from workbench.tasks.task import Task
    from workbench.widgets.panel import Workbench


def __getattr__(name: str) -> Any:
    if name in _FACE:
        value = getattr(importlib.import_module(_FACE[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"workbench.{name}")
    else:
        from workbench.core.errors import did_you_mean

        raise AttributeError(f"module 'workbench' has no attribute {name!r}.{did_you_mean(name, __all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
