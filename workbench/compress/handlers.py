"""Handlers of steps: their input and result, and the registry by the type of the options."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from workbench.compress.model_ops import count_macs, count_params, unfrozen
from workbench.compress.recipe import Recipe
from workbench.compress.steps import STEP_TYPES, Step
from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.variant import LayerReport, Variant
from workbench.core.errors import ConfigError
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.trees import call_model

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_BATCH = 32  # samples per pass for gradients

Cost = Callable[[Variant], float]
"""Cost of a variant on its target engine, such as ms per batch."""


@dataclass(frozen=True)
class Work:
    """Input of a handler: the task, and a module of its own to change.

    ``cost`` measures a variant on its target engine. ``checkpoints`` is the folder for training state, in which ``key``
    names recipe and task.
    """

    task: Task
    module: nn.Module
    progress: ProgressCallback
    seed: int
    cost: Cost | None = None
    checkpoints: Path | None = None
    key: str = ""

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """Return the checkpoint of one training; None if no state is kept."""
        if self.checkpoints is None:
            return None
        return Checkpoint(self.checkpoints / f"{self.key}-{stage}-{self.seed}.pt")

    def set_gradients(self, stage: str, samples: int, *, squared: bool = False) -> None:
        """Set ``grad`` of every parameter to its mean over training samples, ``squared``: to the mean square."""
        split = self.task.train
        count = min(samples, len(split))
        chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(self.seed))[:count]
        size = 1 if squared else _BATCH
        parameters = list(self.module.parameters())
        sums = [torch.zeros_like(p) for p in parameters]
        for start in range(0, count, size):
            if start % _BATCH == 0:
                self.progress(Progress(stage, start, count, "gradients"))
            part = split.take(chosen[start : start + size])
            with unfrozen(self.module):
                loss = self.task.loss(call_model(self.module, part.inputs), part.targets)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient.square() if squared else gradient * len(part)
        for parameter, total in zip(parameters, sums, strict=True):
            parameter.grad = total / count

    def cost_of(self, module: nn.Module) -> float:
        """Return the cost of a candidate by ``cost``."""
        if self.cost is None:
            raise ConfigError(
                "A step measures latency and has no cost. Use recipe.apply(task, cost=wb.latency_cost(recipe))."
            )
        macs = count_macs(module, self.task.examples(2))
        variant = Variant(module, Recipe(), (), self.task, False, count_params(module), macs, math.nan)
        value: object = self.cost(variant)
        if not isinstance(value, int | float | np.number) or not (math.isfinite(value) and value > 0):
            raise ConfigError(f"Recipe.apply: cost must return a number above 0, and returned {value!r}.")
        return float(value)


@dataclass(frozen=True)
class Outcome:
    """Result of a handler; ``layers`` reports on every candidate layer: touched, or why not.

    ``declined``: the step put the module back because its result was no better. That is allowed without
    ``allow_untouched``.
    """

    module: nn.Module
    layers: tuple[LayerReport, ...]
    epochs_done: float = 0.0
    notes: tuple[str, ...] = ()
    quantized: bool = False
    declined: bool = False


Handler = Callable[[Any, Work], Outcome]
Check = Callable[[Any, "Task"], None]
H = TypeVar("H", bound=Callable[..., Outcome])

HANDLERS: dict[type[Step], Handler] = {}
CHECKS: dict[type[Step], Check] = {}


def register_handler(kind: type[Step], *, check: Check | None = None) -> Callable[[H], H]:
    """Register the decorated function as the implementation of a step type.

    A step type of another package becomes valid in recipes and in their JSON, in every process that imports it.

    Parameters
    ----------
    kind
        A frozen dataclass derived from :class:`Step`.
    check
        Raises ConfigError if a step's options do not fit a task; called before the first step starts.

    Examples
    --------
    >>> @register_handler(Halve)  # doctest: +SKIP
    ... def halve(step, work):
    ...     for parameter in work.module.parameters():
    ...         parameter.data.mul_(0.5)
    ...     return Outcome(work.module, (LayerReport("fc", "Linear", True, "halved"),))
    """

    def register(handler: H) -> H:
        STEP_TYPES.setdefault(kind.__name__, kind)
        HANDLERS[kind] = handler
        if check is not None:
            CHECKS[kind] = check
        return handler

    return register
