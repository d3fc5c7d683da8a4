"""How long and how hard to train: the plan, the optimizer, and the course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

_WARMUP = 0.05
# Where the rate of one_cycle peaks, and the shares of the peak that it begins and ends with: those of
# torch.optim.lr_scheduler.OneCycleLR.
_PEAK, _FIRST, _LAST = 0.3, 1 / 25, 1 / 25e4


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how hard to train.

    ``evaluate_every`` is counted in epochs, 0 for never; ``patience`` in evaluations, None for no early stop. With
    ``timed`` the memory layout, and the number format of ``precision="auto"``, are those that are fastest here.
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
    """What training did; ``kept_start`` says that no weights it came to were better than those it began with.

    ``samples_per_s`` counts the steps of this process alone, evaluations left out; ``numerics`` is their memory layout
    and number format.
    """

    epochs: float
    steps: int
    notes: tuple[str, ...]
    kept_start: bool = False
    samples_per_s: float | None = field(default=None, compare=False)
    numerics: str = ""

    @property
    def pace(self) -> tuple[str, ...]:
        """A note on the speed of the training; none if there was no step."""
        if self.samples_per_s is None:
            return ()
        return (f"Trained at {self.samples_per_s:.0f} samples/s ({self.numerics}).",)


def is_layer_normalized(module: nn.Module) -> bool:
    """Return whether the model is of the transformer kind: LayerNorm or RMSNorm, and no batch norm."""
    kinds = [type(m) for m in module.modules()]
    batch = any(issubclass(k, nn.modules.batchnorm._BatchNorm) for k in kinds)
    return not batch and any(issubclass(k, nn.LayerNorm | nn.RMSNorm) for k in kinds)


SGD_RATE, ADAMW_RATE = 0.05, 1e-3
"""Peak learning rates from random weights, or from weights far from the optimum."""


def make_optimizer(module: nn.Module, plan: TrainingPlan, *, extra: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return AdamW for transformers and SGD with Nesterov momentum for the rest; no decay on vectors.

    ``extra`` holds parameters that learn beside those of ``module``.
    """
    wanted = [*module.parameters(), *(extra.parameters() if extra is not None else ())]
    learning = [p for p in wanted if p.requires_grad]
    matrices, vectors = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim <= 1]
    if plan.transformer:
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=plan.learning_rate or ADAMW_RATE * plan.rate_scale)
    groups = [{"params": matrices, "weight_decay": 5e-4}, {"params": vectors, "weight_decay": 0.0}]
    rate = plan.learning_rate or SGD_RATE * plan.rate_scale
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)


def rate_factor(share: float, schedule: str = "cosine") -> float:
    """Return the learning rate's factor at ``share`` of the training done.

    ``"cosine"``: a short warm-up, then a cosine to 0. ``"one_cycle"``: a cosine up over the first 30 %, then one
    down to almost 0 (Smith and Topin 2017, arXiv 1708.07120). ``"constant"``: 1.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "one_cycle":
        if share < _PEAK:
            return _between(_FIRST, 1.0, share / _PEAK)
        return _between(1.0, _LAST, min(1.0, (share - _PEAK) / (1 - _PEAK)))
    if share < _WARMUP:
        return (share + 0.01) / (_WARMUP + 0.01)
    return _between(1.0, 0.0, min(1.0, (share - _WARMUP) / (1 - _WARMUP)))


def _between(start: float, end: float, share: float) -> float:
    """Return the point at ``share`` of half a cosine from ``start`` to ``end``."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
