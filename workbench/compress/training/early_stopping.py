"""Evaluate on the validation split during training, and stop early with the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from workbench.compress.model_ops import kept_modes, predict_with

if TYPE_CHECKING:
    from workbench.tasks.task import Task


def validation_quality(module: nn.Module, task: Task) -> float:
    """Return the task's metric on the validation split in eval mode; every submodule keeps its mode."""
    with kept_modes(module):
        module.eval()
        return task.evaluate(lambda inputs: predict_with(module, inputs), split="validation")


class EarlyStopping:
    """Periodic evaluation; with ``patience`` also the best weights and the decision to stop.

    Parameters
    ----------
    module
        The trained module.
    quality
        Returns the metric of ``module`` on the validation split, higher is better; None: no evaluation.
    every
        Steps between evaluations; 0 for never.
    patience
        Evaluations without improvement after which to stop; None: never, and the best weights are not stored.
    """

    def __init__(
        self, module: nn.Module, quality: Callable[[], float] | None, *, every: int, patience: int | None
    ) -> None:
        self.module, self.quality, self.patience = module, quality, patience
        self.every = every if quality is not None else 0
        self.metric: float | None = None
        self.at: int | None = None
        self.best: tuple[float, int] | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self.without = 0

    @property
    def stopped(self) -> bool:
        """Return whether patience is exhausted."""
        return self.patience is not None and self.without >= self.patience

    def evaluate(self, done: int, *, last: bool = False) -> bool:
        """Evaluate if it is due after ``done`` steps; return whether it was."""
        if not self.every or self.quality is None or self.at == done or (done % self.every and not last):
            return False
        self.metric, self.at = self.quality(), done
        if self.patience is None:
            return True
        if self.best is None or self.metric > self.best[0] or math.isnan(self.best[0]):
            self.best, self.without = (self.metric, done), 0
            self.weights = {key: value.clone() for key, value in self.module.state_dict().items()}
        else:
            self.without += 1
        return True

    def restore(self, per_epoch: int, epochs: float) -> tuple[str, ...]:
        """Restore the best weights if the last ones are worse; return notes."""
        if self.best is None or self.metric is None:
            return ()
        value, done = self.best
        early = (
            f"Training stopped early, after {(self.at or 0) / per_epoch:.1f} of {epochs:g} epochs: "
            f"no improvement in the last {'evaluation' if self.without == 1 else f'{self.without} evaluations'}. "
            if self.stopped
            else ""
        )
        if self.at == done:
            return (early,) if early else ()
        self.module.load_state_dict(self.weights)
        where = f"from epoch {done / per_epoch:.1f}" if done else "that training began with"
        return (f"{early}The weights {where} were kept (validation {value:.4f}; the last had {self.metric:.4f}).",)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        names = ("metric", "at", "best", "weights", "without")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of :meth:`state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)
