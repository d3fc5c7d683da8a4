"""Measure one step on a copy of the task's model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench.compress.apply import run_step
from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.handlers import Outcome, Work
from workbench.compress.model_ops import predict_with
from workbench.compress.steps import Step
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, leaves

if TYPE_CHECKING:
    from workbench.tasks.task import Task


class StepEvaluator:
    """Run steps on copies of the task's model, and measure ``"quality"`` or ``"sqnr_db"``."""

    def __init__(self, task: Task, measure: str, seed: int, progress: ProgressCallback) -> None:
        self.task, self.measure, self.seed, self.progress = task, measure, seed, progress
        self.module = task.model()
        self._reference: Tree = None

    def run(self, step: Step, report: Progress) -> Outcome:
        """Run a step on a copy of the model; its own progress is replaced by ``report``."""
        torch.manual_seed(self.seed)
        return run_step(step, Work(self.task, copy_module(self.module), lambda _: self.progress(report), self.seed))

    def value(self, module: nn.Module) -> float:
        """Return the quality, or the noise share of the outputs' energy."""
        if self.measure == "quality":
            return self.task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")
        if self._reference is None:
            self._reference = self._outputs(self.module)
        return relative_squared_error(leaves(self._reference), leaves(self._outputs(module)))

    def _outputs(self, module: nn.Module) -> Tree:
        return self.task.outputs(lambda inputs: predict_with(module, inputs), "calibration")
