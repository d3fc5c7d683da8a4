"""Mean gradients of the loss over samples of the training split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from workbench.compress.model_ops import unfrozen
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.trees import call_model

if TYPE_CHECKING:
    from workbench.tasks.task import Task

_BATCH = 32


def gather_gradients(
    module: nn.Module,
    task: Task,
    *,
    samples: int,
    seed: int,
    stage: str,
    progress: ProgressCallback,
    squared: bool = False,
) -> None:
    """Set ``grad`` of every parameter to its mean over ``samples``, or if ``squared`` to the mean square per sample."""
    split = task.train
    count = min(samples, len(split))
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count]
    size = 1 if squared else _BATCH
    parameters = list(module.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    for start in range(0, count, size):
        if start % _BATCH == 0:
            progress(Progress(stage, start, count, "gradients"))
        part = split.take(chosen[start : start + size])
        with unfrozen(module):
            loss = task.loss(call_model(module, part.inputs), part.targets)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total += gradient.square() if squared else gradient * len(part)
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total / count
