"""Plan of a training: length, optimizer, learning rate schedule, early stopping; and its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_WARMUP = 0.05
# Position of the peak of one_cycle, and its first and last shares of the peak, as in OneCycleLR of torch.optim.
_PEAK, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25e4
SGD_RATE, ADAMW_RATE = 0.05, 1e-3
"""Peak learning rates for weights far from the optimum."""


@dataclass(frozen=True)
class TrainingPlan:
    """Length, optimizer and evaluation of a training.

    ``evaluate_every`` is in epochs, 0 for never; ``patience`` in evaluations, None for no early stopping. ``timed``
    chooses the memory layout, and the number format of ``precision="auto"``, by timing.
    """

    epochs: float
    batch_size: int
    learning_rate: float | None
    max_seconds: float | None
    rate_scale: float = 1.0
    transformer: bool = False
    schedule: str = "cosine"
    precision: str = "auto"
    evaluate_every: float = 1.0
    patience: int | None = None
    timed: bool = False


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training; ``kept_start``: the weights of the start were the best.

    ``samples_per_s`` is over the steps of this process, without evaluations; ``numerics`` their layout and format.
    """

    epochs: float
    steps: int
    notes: tuple[str, ...]
    kept_start: bool = False
    samples_per_s: float | None = field(default=None, compare=False)
    numerics: str = ""

    @property
    def pace(self) -> tuple[str, ...]:
        """Note on the training speed; empty without a step."""
        if self.samples_per_s is None:
            return ()
        return (f"Trained at {self.samples_per_s:.0f} samples/s ({self.numerics}).",)


def is_layer_normalized(module: nn.Module) -> bool:
    """Return whether the model has LayerNorm or RMSNorm and no batch norm, like transformers."""
    kinds = [type(m) for m in module.modules()]
    batch = any(issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds)
    return not batch and any(issubclass(k, nn.LayerNorm | nn.RMSNorm) for k in kinds)


def make_optimizer(module: nn.Module, plan: TrainingPlan, *, extra: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return AdamW for transformers, else SGD with Nesterov momentum, also for ``extra``; no decay on vectors."""
    parameters = [*module.parameters(), *(extra.parameters() if extra is not None else ())]
    learning = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim <= 1]
    decay = 0.05 if plan.transformer else 5e-4
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    if plan.transformer:
        return torch.optim.AdamW(groups, lr=plan.learning_rate or ADAMW_RATE * plan.rate_scale)
    rate = plan.learning_rate or SGD_RATE * plan.rate_scale
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def rate_factor(share: float, schedule: str = "cosine") -> float:
    """Return the factor of the learning rate at ``share`` of the training.

    ``"cosine"``: short warm-up, then cosine to 0; ``"one_cycle"``: cosine up over the first 30 %, then down to almost 0
    (Smith and Topin 2017, arXiv 1708.07120); ``"constant"``: 1.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "one_cycle":
        if share < _PEAK:
            return _cosine(_FIRST, 1.0, share / _PEAK)
        return _cosine(1.0, _LAST, min(1.0, (share - _PEAK) / (1 - _PEAK)))
    if share < _WARMUP:
        return (share + 0.01) / (_WARMUP + 0.01)
    return _cosine(1.0, 0.0, min(1.0, (share - _WARMUP) / (1 - _WARMUP)))


def _cosine(start: float, end: float, share: float) -> float:
    """Interpolate from ``start`` to ``end`` by half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


class EarlyStopping:
    """Periodic evaluation; with ``patience`` also the best weights and the decision to stop.

    ``quality`` returns the metric of ``module``, higher is better; None: no evaluation. ``every`` is the number of
    steps between evaluations, 0 for never; ``patience`` that of evaluations without improvement after which to stop.
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
        return {name: getattr(self, name) for name in ("metric", "at", "best", "weights", "without")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the output of :meth:`state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)
