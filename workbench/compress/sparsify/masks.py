"""Keep zero weights at zero while any optimizer trains, without hooks or parametrizations left in the module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from workbench.compress.training.optimizer_hooks import optimizer_step_hooks


@dataclass
class HeldZeros:
    """Number of weights held at zero, and of all weights in the same tensors."""

    zeros: int = 0
    weights: int = 0


@contextmanager
def hold_zeros() -> Iterator[HeldZeros]:
    """Reset weights that are zero at an optimizer's first step to zero after each of its steps.

    Applies to every optimizer that runs in the block, and to tensors of two and more dimensions that are partly zero:
    an all-zero initialization may learn.
    """
    held = HeldZeros()
    masks: WeakKeyDictionary[Optimizer, list[tuple[nn.Parameter, torch.Tensor]]] = WeakKeyDictionary()

    def before(optimizer: Optimizer) -> None:
        if optimizer in masks:
            return
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.ndim > 1]
        pairs = [(p, p == 0) for p in weights]
        masks[optimizer] = [(p, zero) for p, zero in pairs if bool(zero.any()) and not bool(zero.all())]
        held.zeros = sum(int(zero.sum()) for _, zero in masks[optimizer])
        held.weights = sum(zero.numel() for _, zero in masks[optimizer])

    def after(optimizer: Optimizer) -> None:
        for weight, zero in masks[optimizer]:
            weight.masked_fill_(zero, 0.0)

    with optimizer_step_hooks(before=before, after=after):
        yield held
