"""Structured pruning with torch-pruning: channels go away, outputs keep their shape, and each group is tried first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, lcm
from typing import Any

import torch
from torch import nn

from workbench.compress.apply import Outcome, Work
from workbench.compress.names import excluded_names
from workbench.compress.prune_trial import Cut, apply_cuts, dependency_graph, surviving
from workbench.compress.steps import Prune
from workbench.compress.variant import LayerReport
from workbench.core.progress import Progress
from workbench.tasks.trees import Tree, call_model, leaves

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
# A group is never cut below this share of its width by a global ranking: a layer of a few channels blocks the net.
_LEAST_GLOBAL = 0.1


@dataclass(frozen=True)
class _Group:
    """Layers whose output channels can only go together, with the importance of each channel."""

    root: str
    members: tuple[str, ...]
    importance: torch.Tensor
    blocks: int

    @property
    def width(self) -> int:
        return len(self.importance) * self.blocks


def prune(step: Prune, work: Work) -> Outcome:
    """Remove channels of the variant's module, group by group; see :class:`Prune`."""
    module, example = work.module, work.task.examples(2)
    excluded = excluded_names(module, step.exclude, where="Prune")
    fixed = _output_layers(module, example)
    groups, reasons = _groups(step, module, example, excluded, fixed)
    cuts = _choose(step, groups, reasons)
    work.progress(Progress("prune", 0, 1, f"trying {len(cuts)} groups"))
    good, broken = surviving(module, cuts, example)
    for cut, why in broken:
        reasons.update(dict.fromkeys(cut.members, why))
    widths = _widths(module)
    apply_cuts(module, good, example)
    module.eval()
    return Outcome(module, _report(module, widths, reasons), notes=_notes(step, good, broken))


def _output_layers(module: nn.Module, example: Tree) -> frozenset[str]:
    """Return the layers whose output is an output of the whole model."""
    made: dict[int, str] = {}
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: made.update({out.data_ptr(): name}))
        for name, layer in module.named_modules()
        if isinstance(layer, PRUNABLE)
    ]
    try:
        with torch.no_grad():
            outputs = leaves(call_model(module, example))
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(made[out.data_ptr()] for out in outputs if out.data_ptr() in made)


def _groups(
    step: Prune, module: nn.Module, example: Tree, excluded: frozenset[str], fixed: frozenset[str]
) -> tuple[list[_Group], dict[str, str]]:
    """Return the groups that may be cut, and for every layer of the other ones the reason."""
    graph = dependency_graph(module, example)
    judge = _importance(step.importance)
    names = {layer: name for name, layer in module.named_modules()}
    groups: list[_Group] = []
    reasons: dict[str, str] = {}
    for group in graph.get_all_groups(root_module_types=list(PRUNABLE)):
        outs = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        members = tuple(dict.fromkeys(names[m] for m in outs if isinstance(m, PRUNABLE) and m in names))
        why = _refusal(members, outs, excluded, fixed)
        scores = None if why else judge(group)
        if scores is None:
            reasons.update(dict.fromkeys(members, why or f"importance {step.importance!r} does not apply to it"))
            continue
        blocks = _channel_blocks(outs, [dep.target.module for dep, _ in group])
        mean = scores.detach().double().reshape(blocks, -1).mean(0)
        groups.append(_Group(members[0], members, mean, blocks))
    return groups, reasons


def _refusal(
    members: Sequence[str], outs: Sequence[nn.Module], excluded: frozenset[str], fixed: frozenset[str]
) -> str | None:
    if any(name in fixed for name in members):
        return "its channels are outputs of the model"
    blocked = [name for name in members if name in excluded]
    if blocked:
        return "excluded by name" if len(members) == 1 else f"shares its channels with {blocked[0]}, excluded by name"
    if any(isinstance(m, nn.LayerNorm | nn.RMSNorm) for m in outs):
        return "its channels are normalised together (LayerNorm): cutting some changes all the others"
    if any(isinstance(m, nn.LSTM | nn.MultiheadAttention) for m in outs):
        return "its channels belong to attention heads or recurrent gates"
    return None


def _importance(kind: str) -> Any:
    import torch_pruning

    if kind == "random":
        return torch_pruning.importance.RandomImportance()
    if kind == "bn_scale":
        return torch_pruning.importance.BNScaleImportance()
    return torch_pruning.importance.MagnitudeImportance(p=2 if kind == "l2" else 1)


def _channel_blocks(outs: Sequence[nn.Module], touched: Sequence[nn.Module]) -> int:
    """Return into how many equal blocks the channels fall, which must lose the same places (grouped layers)."""
    blocks = 1
    for layer in touched:
        if isinstance(layer, nn.GroupNorm):
            blocks = lcm(blocks, layer.num_groups)
        elif isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.in_channels:
            blocks = lcm(blocks, layer.groups)
    return blocks


def _choose(step: Prune, groups: Sequence[_Group], reasons: dict[str, str]) -> list[Cut]:
    """Return the channels to remove in each group; groups that rounding leaves whole get a reason."""
    cuts = []
    threshold = _threshold(step.ratio, groups) if step.scope == "global" else None
    for group in groups:
        if threshold is None:
            wanted = group.width * (1 - step.ratio)
        else:
            above = int((group.importance > threshold).sum()) * group.blocks
            wanted = max(above, group.width * _LEAST_GLOBAL)
        kept = _rounded(wanted, lcm(step.round_to, group.blocks), group.width)
        if kept == group.width:
            why = "all its channels rank high" if threshold is not None else f"round_to={step.round_to}"
            reasons.update(dict.fromkeys(group.members, f"{why} keeps all {group.width} channels"))
            continue
        per_block = (group.width - kept) // group.blocks
        places = group.importance.argsort(stable=True)[:per_block]
        size = len(group.importance)
        channels = torch.cat([places + block * size for block in range(group.blocks)]).sort().values
        cuts.append(Cut(group.root, group.members, tuple(channels.tolist())))
    return cuts


def _threshold(ratio: float, groups: Sequence[_Group]) -> float:
    if not groups:
        return 0.0
    scores = torch.cat([group.importance.repeat(group.blocks) for group in groups]).sort().values
    return float(scores[max(0, round(ratio * len(scores)) - 1)])


def _rounded(wanted: float, multiple: int, width: int) -> int:
    """Return the multiple nearest to ``wanted``, at least one and at most ``width``."""
    return min(width, max(multiple, floor(wanted / multiple + 0.5) * multiple))


def _widths(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(m.weight.shape) for name, m in module.named_modules() if isinstance(m, PRUNABLE)}


def _report(module: nn.Module, before: dict[str, tuple[int, ...]], reasons: dict[str, str]) -> tuple[LayerReport, ...]:
    reports = []
    for name, layer in module.named_modules():
        if name not in before:
            continue
        old, new = before[name], tuple(layer.weight.shape)
        changes = [f"{word} {a} -> {b}" for word, a, b in _sides(layer, old, new) if a != b]
        own = f"; outputs kept: {reasons[name]}" if name in reasons else ""
        reason = ", ".join(changes) + own if changes else reasons.get(name, "not reached from the model's inputs")
        reports.append(LayerReport(name, type(layer).__name__, bool(changes), reason))
    return tuple(reports)


def _sides(
    layer: nn.Module, old: tuple[int, ...], new: tuple[int, ...]
) -> tuple[tuple[str, int, int], tuple[str, int, int]]:
    out, into = (1, 0) if getattr(layer, "transposed", False) else (0, 1)
    return ("outputs", old[out], new[out]), ("inputs", old[into], new[into])


def _notes(step: Prune, good: Sequence[Cut], broken: Sequence[tuple[Cut, str]]) -> tuple[str, ...]:
    if not broken:
        return ()
    return (
        f"{len(broken)} of {len(good) + len(broken)} groups of layers were left alone, because the model breaks or "
        "computes something else without their channels (fixed sizes in its forward).",
    )
