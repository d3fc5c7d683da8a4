"""Plan of a training: length, optimizer and learning rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

_WARMUP = 0.05
# Position of the peak of one_cycle, and its first and last shares of the peak, as in OneCycleLR of torch.optim.
_PEAK, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25e4


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


SGD_RATE, ADAMW_RATE = 0.05, 1e-3
"""Peak learning rates for weights far from the optimum."""


def make_optimizer(module: nn.Module, plan: TrainingPlan, *, extra: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return AdamW for transformers, else SGD with Nesterov momentum; no weight decay on vectors.

    ``extra`` holds further parameters to train.
    """
    parameters = [*module.parameters(), *(extra.parameters() if extra is not None else ())]
    learning = [p for p in parameters if p.requires_grad]
    matrices, vectors = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim <= 1]
    if plan.transformer:
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=plan.learning_rate or ADAMW_RATE * plan.rate_scale)
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
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
