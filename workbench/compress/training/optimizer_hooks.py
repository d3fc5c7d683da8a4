"""Hooks around the steps of any optimizer, and zeros that it keeps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from workbench.compress.model_ops import removing

StepHook = Callable[[Optimizer], None]


@contextmanager
def optimizer_step_hooks(*, before: StepHook = lambda _: None, after: StepHook = lambda _: None) -> Iterator[None]:
    """Call ``before(optimizer)`` and ``after(optimizer)`` around every optimizer step of this thread.

    ``before`` sees the gradients, ``after`` the new weights; both run without recording gradients.
    """
    thread = threading.get_ident()

    def mine(hook: StepHook) -> Callable[[Optimizer, Any, Any], None]:
        def call(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
            if threading.get_ident() == thread:
                with torch.no_grad():
                    hook(optimizer)

        return call

    handles = [register_optimizer_step_pre_hook(mine(before)), register_optimizer_step_post_hook(mine(after))]
    with removing(handles):
        yield


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
