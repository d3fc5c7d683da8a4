"""Training that makes weak channels shrink before they are cut, with the penalties of torch-pruning."""

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

# The penalty on group norms pulls the weakest channel of a group this many times as hard as the strongest.
_SPREAD = 16
# The growing penalty grows this often, from nothing to the full strength.
_GROWTHS = 20


def train_sparse(step: Prune, work: Work, groups: Sequence[Group]) -> float:
    """Train ``work.module`` on the labels while the weak channels of ``groups`` are pulled; return the epochs done.

    Layers whose channels must stay are not pulled at.

    Raises
    ------
    ConfigError
        If the penalty finds nothing to pull at.
    """
    training = Recover(epochs=step.sparse_epochs)
    module = work.module
    with unfrozen(module), tracing():
        pruner = _pruner(step, work)
    _spare_others(step, pruner, module, groups)
    steps = max(1, round(training.epochs * max(1, len(work.task.train) // training.batch_size)))
    pull = _penalty(step, pruner, module, every=max(1, steps // _GROWTHS))
    with optimizer_step_hooks(before=lambda _: pull()):
        return recover(training, work, rate_scale=1.0).epochs_done  # the pull is a share of the learning rate


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
    """Tell the pruner to leave every layer alone but those of ``groups``."""
    roots = {module.get_submodule(group.root) for group in groups if group.importance.min() < group.importance.max()}
    pulled: set[nn.Module] = set()
    spared: list[nn.Module] = []
    for group in pruner.DG.get_all_groups(root_module_types=list(PRUNABLE)):
        layers = [dep.target.module for dep, _ in group]
        outs = [dep.target.module for dep, _ in group if pruner.DG.is_out_channel_pruning_fn(dep.handler)]
        # torch-pruning's penalties take the wrong dimension of transposed convolutions, and too many of grouped ones.
        strange = any(getattr(layer, "transposed", False) or is_grouped(layer) for layer in layers)
        if roots.isdisjoint(outs) or strange:
            spared += outs
        else:
            pulled.update(outs)
    if step.sparse_by == "bn_scale":
        pulled = {layer for layer in pulled if isinstance(layer, _BatchNorm)}
        spared += [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer not in pulled]
    if not pulled:
        raise ConfigError(
            f"Prune(sparse_epochs={step.sparse_epochs:g}, sparse_by={step.sparse_by!r}): no group of layers that may "
            "be cut has "
            + ("a BatchNorm to pull at. Use sparse_by='group_norm'." if step.sparse_by == "bn_scale" else "one.")
        )
    pruner.ignored_layers.extend(spared)
    pruner.update_regularizer()


def _penalty(step: Prune, pruner: Any, module: nn.Module, *, every: int) -> Callable[[], None]:
    """Return what adds the penalty to the gradients; it is called before each step of the optimizer."""
    done = 0

    def pull() -> None:
        nonlocal done
        if step.sparse_by == "growing" and done % every == 0 and done < every * _GROWTHS:
            pruner.update_reg()
        done += 1
        pruner.regularize(module)

    return pull
