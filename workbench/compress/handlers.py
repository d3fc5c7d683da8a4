"""Registry of step implementations: each technique registers a handler for the type of its options."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch import nn

from workbench.compress.model_ops import count_macs, count_params
from workbench.compress.recipe import Recipe
from workbench.compress.steps import STEP_TYPES, Step
from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.variant import LayerReport, Variant
from workbench.core.errors import ConfigError
from workbench.core.progress import ProgressCallback

if TYPE_CHECKING:
    from workbench.tasks.task import Task

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

    def cost_of(self, module: nn.Module) -> float:
        """Return the cost of a candidate by ``cost``."""
        macs = count_macs(module, self.task.examples(2))
        variant = Variant(module, Recipe(), (), self.task, False, count_params(module), macs, math.nan)
        value: object = self.cost(variant) if self.cost is not None else None
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
