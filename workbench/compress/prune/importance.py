"""How much a channel is worth: by its weights, or by what the loss says about them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.compress.apply import Work
from workbench.compress.prune.groups import Judge
from workbench.compress.steps import PRUNE_BY_LOSS, Prune
from workbench.core.progress import Progress
from workbench.tasks.trees import call_model

_BATCH = 32


def judge_for(step: Prune, module: nn.Module, work: Work) -> Judge:
    """Return what scores the channels of a group of ``module`` as the step asks.

    Magnitude: Li et al., arXiv 1608.08710. BatchNorm scale: Liu et al., arXiv 1708.06519. LAMP: Lee et al., arXiv
    2010.07611. Taylor: Molchanov et al., CVPR 2019. Hessian: the diagonal of the Fisher information in its place,
    after Optimal Brain Damage (LeCun et al., 1989). The last two see ``step.samples`` samples of the training split.
    """
    from torch_pruning.pruner import importance

    kinds: dict[str, Any] = {
        "l2": lambda: importance.MagnitudeImportance(p=2),
        "l1": lambda: importance.MagnitudeImportance(p=1),
        "bn_scale": importance.BNScaleImportance,
        "lamp": importance.LAMPImportance,
        "taylor": importance.TaylorImportance,
        "hessian": importance.HessianImportance,
        "random": importance.RandomImportance,
    }
    if step.importance in PRUNE_BY_LOSS:
        _gather_gradients(step, module, work)
    judge: Judge = kinds[step.importance]()
    return judge


def _gather_gradients(step: Prune, module: nn.Module, work: Work) -> None:
    """Leave in ``grad`` of every parameter the mean gradient, or for ``hessian`` the mean of its squares by sample."""
    split = work.task.train
    count = min(step.samples, len(split))
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(work.seed))[:count]
    squared = step.importance == "hessian"
    size = 1 if squared else _BATCH
    parameters = list(module.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    for start in range(0, count, size):
        if start % _BATCH == 0:
            work.progress(Progress("prune", start, count, "gradients"))
        part = split.take(chosen[start : start + size])
        loss = work.task.loss(call_model(module, part.inputs), part.targets)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total += gradient.square() if squared else gradient
    batches = -(-count // size)
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total / batches
