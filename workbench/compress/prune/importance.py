"""How much a channel is worth: by its weights, or by what the loss says about them."""

from __future__ import annotations

from typing import Any

from torch import nn

from workbench.compress.handlers import Work
from workbench.compress.prune.groups import Scorer
from workbench.compress.steps import PRUNE_BY_LOSS, Prune
from workbench.compress.training.gradients import gather_gradients


def scorer_for(step: Prune, module: nn.Module, work: Work) -> Scorer:
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
