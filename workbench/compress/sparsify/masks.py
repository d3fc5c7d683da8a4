"""Zeros that stay zero while someone trains: plain weights, no hooks and no parametrization left in the module."""

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
class Held:
    """How many weights were held at zero, of how many in the same tensors."""

    zeros: int = 0
    weights: int = 0


@contextmanager
def zeros_held() -> Iterator[Held]:
    """While open, weights that are zero at an optimizer's first step are zero again after each of its steps.

    Tensors of two and more dimensions count, where some weights are zero and some are not: a layer that starts at zero
    altogether may learn. Whichever module is trained, a quantized graph too, is found by its optimizer.
    """
    held = Held()
    known: WeakKeyDictionary[Optimizer, list[tuple[nn.Parameter, torch.Tensor]]] = WeakKeyDictionary()

    def before(optimizer: Optimizer) -> None:
        if optimizer in known:
            return
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.ndim > 1]
        masks = [(p, p == 0) for p in weights]
        known[optimizer] = [(p, zero) for p, zero in masks if bool(zero.any()) and not bool(zero.all())]
        held.zeros = sum(int(zero.sum()) for _, zero in known[optimizer])
        held.weights = sum(zero.numel() for _, zero in known[optimizer])

    def after(optimizer: Optimizer) -> None:
        for weight, zero in known[optimizer]:
            weight.masked_fill_(zero, 0.0)

    with optimizer_step_hooks(before=before, after=after):
        yield held
