"""Importance of channels: by weights or by the loss."""

from __future__ import annotations

from typing import Any

from torch import nn

from workbench.compress.handlers import Work
from workbench.compress.prune.groups import Scorer
from workbench.compress.steps import PRUNE_BY_LOSS, Prune
from workbench.compress.training.gradients import gather_gradients


def scorer_for(step: Prune, module: nn.Module, work: Work) -> Scorer:
    """Return the scorer for the channels of a group of ``module``.

    Magnitude: Li et al., arXiv 1608.08710. BatchNorm scale: Liu et al., arXiv 1708.06519. LAMP: Lee et al., arXiv
    2010.07611. Taylor: Molchanov et al., CVPR 2019. Hessian: approximated by the diagonal of the Fisher information,
    after Optimal Brain Damage (LeCun et al., 1989). The last two use ``step.samples`` training samples.
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
        gather_gradients(
            module,
            work.task,
            samples=step.samples,
            seed=work.seed,
            stage="prune",
            progress=work.progress,
            squared=step.importance == "hessian",
        )
    scorer: Scorer = kinds[step.importance]()
    return scorer
