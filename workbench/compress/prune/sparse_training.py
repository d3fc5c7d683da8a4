"""Sparse training: penalties of torch-pruning shrink unimportant channels before they are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from workbench.compress.distill.apply import recover
from workbench.compress.handlers import Work
from workbench.compress.model_ops import unfrozen
from workbench.compress.prune.groups import PRUNABLE, Group, is_grouped
from workbench.compress.prune.verify_cut import tracing
from workbench.compress.steps import Prune, Recover
from workbench.compress.training.optimizer_hooks import optimizer_step_hooks
from workbench.core.errors import ConfigError
from workbench.tasks.trees import call_model, leaves

_SPREAD = 16  # ratio of the group norm penalty between the weakest and the strongest channel
_GROWTHS = 20  # increments of the growing penalty


def train_sparse(step: Prune, work: Work, groups: Sequence[Group]) -> float:
    """Train on the labels with a penalty on the channels of ``groups``; return the epochs done.

    A penalty that applies to no layer raises ConfigError.
    """
    training = Recover(epochs=step.sparse_epochs)
    module = work.module
    with unfrozen(module), tracing():
        pruner = _pruner(step, work)
    _spare_others(step, pruner, module, groups)
    steps = max(1, round(training.epochs * max(1, len(work.task.train) // training.batch_size)))
    pull = _penalty(step, pruner, module, every=max(1, steps // _GROWTHS))
    with optimizer_step_hooks(before=lambda _: pull()):
        return recover(training, work, rate_scale=1.0).epochs_done  # the penalty is scaled by the learning rate


def _pruner(step: Prune, work: Work) -> Any:
    from torch_pruning.pruner import algorithms, importance

    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "group_norm": (algorithms.GroupNormPruner, {"reg": step.sparse_strength / _SPREAD}),
        "growing": (algorithms.GrowingRegPruner, {"reg": 0.0, "delta_reg": step.sparse_strength / _GROWTHS}),
        "bn_scale": (algorithms.BNScalePruner, {"reg": step.sparse_strength, "group_lasso": False}),
    }
    kind, options = kinds[step.sparse_by]
    return kind(
        work.module,
        work.task.examples(2),
        importance.MagnitudeImportance(p=2),
        root_module_types=list(PRUNABLE),
        forward_fn=call_model,
        output_transform=leaves,
        **options,
    )


def _spare_others(step: Prune, pruner: Any, module: nn.Module, groups: Sequence[Group]) -> None:
    """Restrict the pruner to the layers of ``groups``."""
    roots = {module.get_submodule(group.root) for group in groups if group.importance.min() < group.importance.max()}
    penalized: set[nn.Module] = set()
    spared: list[nn.Module] = []
    for group in pruner.DG.get_all_groups(root_module_types=list(PRUNABLE)):
        layers = [dep.target.module for dep, _ in group]
        outs = [dep.target.module for dep, _ in group if pruner.DG.is_out_channel_pruning_fn(dep.handler)]
        # torch-pruning's penalties use wrong dimensions of transposed and grouped convolutions.
        strange = any(getattr(layer, "transposed", False) or is_grouped(layer) for layer in layers)
        if roots.isdisjoint(outs) or strange:
            spared += outs
        else:
            penalized.update(outs)
    if step.sparse_by == "bn_scale":
        penalized = {layer for layer in penalized if isinstance(layer, _BatchNorm)}
        spared += [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer not in penalized]
    if not penalized:
        raise ConfigError(
            f"Prune(sparse_epochs={step.sparse_epochs:g}, sparse_by={step.sparse_by!r}): no group of prunable layers "
            + ("has a BatchNorm. Use sparse_by='group_norm'." if step.sparse_by == "bn_scale" else "fits the penalty.")
        )
    pruner.ignored_layers.extend(spared)
    pruner.update_regularizer()


def _penalty(step: Prune, pruner: Any, module: nn.Module, *, every: int) -> Callable[[], None]:
    """Return a function that adds the penalty to the gradients, to be called before each optimizer step."""
    done = 0

    def pull() -> None:
        nonlocal done
        if step.sparse_by == "growing" and done % every == 0 and done < every * _GROWTHS:
            pruner.update_reg()
        done += 1
        pruner.regularize(module)

    return pull
