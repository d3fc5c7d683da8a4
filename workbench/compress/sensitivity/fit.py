"""Find the largest step of a sensitivity table that meets its goal when all layers change together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from workbench.compress.sensitivity.evaluator import StepEvaluator
from workbench.compress.steps import Step
from workbench.core.checks import require_callable, require_int
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.load import load_task

if TYPE_CHECKING:
    from workbench.compress.sensitivity.table import Sensitivity
    from workbench.tasks.task import Task

_GROWTH = 2.0  # the sum of single losses may exceed the joint loss, so the allowance may exceed the goal


def fit_step(
    table: Sensitivity,
    task: Task | str,
    goal: float,
    *,
    of: str | None,
    tries: int,
    seed: int,
    progress: ProgressCallback,
) -> Step:
    """Return the largest step whose measured loss is at most ``goal``; see :meth:`Sensitivity.fit`."""
    require_int("Sensitivity.fit: tries", tries, minimum=1)
    require_int("Sensitivity.fit: seed", seed, minimum=0)
    require_callable("Sensitivity.fit: progress", progress, takes="each Progress report")
    task = load_task(task)
    if task.name != table.task:
        raise ConfigError(f"Sensitivity.fit: the table is of task {table.task!r}, got {task.name!r}.")
    task.check()
    evaluator = StepEvaluator(task, table.measure, seed, progress)
    by_quality = table.measure == "quality"

    def step_for(allowed: float) -> Step:
        return table.step(drop=allowed, of=of) if by_quality else table.step(sqnr_db=decibels(allowed), of=of)

    def loss(step: Step) -> float:
        report = Progress("sensitivity", message=f"measuring {step.label} as a whole")
        progress(report)
        with torch.random.fork_rng(devices=[]):
            value = evaluator.value(evaluator.run(step, report).module)
        return table.base - value if by_quality else value

    def describe(loss: float) -> str:
        return f"a drop of {loss:.4g}" if by_quality else f"{decibels(loss):.1f} dB"

    return largest_holding(step_for, loss, goal, tries=tries, describe=describe)


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
