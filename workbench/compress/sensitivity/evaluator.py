"""Measure a step on a copy of the task's model, and find the largest step of a table that meets its goal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench.compress.apply import run_step
from workbench.compress.graph.outputs import relative_squared_error
from workbench.compress.handlers import Outcome, Work
from workbench.compress.model_ops import predict_with, quality_of
from workbench.compress.steps import Step
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.module import copy_module
from workbench.tasks.trees import Tree, leaves

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_GROWTH = 2.0  # the sum of single losses may exceed the joint loss, so the allowance may exceed the goal


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
            return quality_of(module, self.task)
        if self._reference is None:
            self._reference = self._outputs(self.module)
        return relative_squared_error(leaves(self._reference), leaves(self._outputs(module)))

    def _outputs(self, module: nn.Module) -> Tree:
        return self.task.outputs(lambda inputs: predict_with(module, inputs), "calibration")


def largest_holding(
    step_for: Callable[[float], Step],
    loss: Callable[[Step], float],
    goal: float,
    *,
    tries: int,
    describe: Callable[[float], str] = "{:.4g}".format,
) -> Step:
    """Return the step with the largest allowance whose measured loss is at most ``goal``.

    ``step_for`` makes the step for a sum of single losses, and raises ConfigError if no layer can change for it. At
    most ``tries`` different steps are measured; ConfigError if none meets the goal.
    """
    losses: dict[Step, float] = {}
    best: Step | None = None
    low, high, allowance = 0.0, float("inf"), goal
    for _ in range(4 * tries):  # different allowances may give the same step, which is measured once
        try:
            step = step_for(allowance)
        except ConfigError:
            if not losses:
                raise
            break
        if step not in losses:
            if len(losses) == tries:
                break
            losses[step] = loss(step)
        if losses[step] <= goal:
            best, low = step, allowance
        else:
            high = allowance
        allowance = low * _GROWTH if high == float("inf") else (low + high) / 2
    if best is None:
        raise ConfigError(
            f"Sensitivity.fit: no step holds {describe(goal)} with all layers changed together; measured, largest step "
            f"first: {', '.join(map(describe, losses.values()))}. Allow more, or measure milder settings."
        )
    return best


def decibels(noise_share: float) -> float:
    """Return the SQNR (dB) for a noise share."""
    return -10 * math.log10(noise_share) if noise_share > 0 else math.inf
