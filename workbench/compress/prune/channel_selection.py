"""Score the channels of each group, and select those to prune: per group, or ranked among groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from typing import Any

import torch

from workbench.compress.handlers import Work
from workbench.compress.prune.config import PRUNE_BY_LOSS, Prune
from workbench.compress.prune.groups import Group, Scorer
from workbench.compress.prune.verify_cut import Cut

# Least share of a group's width that a ranking among groups keeps: very narrow layers block the network.
_LEAST_RANKED = 0.1


def scorer_for(step: Prune, work: Work) -> Scorer:
    """Return the scorer for the channels of a group.

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
        work.set_gradients("prune", step.samples, squared=step.importance == "hessian")
    scorer: Scorer = kinds[step.importance]()
    return scorer


def select_channels(
    step: Prune, groups: Sequence[Group], ratio: float, *, own: Mapping[str, float], whole: Mapping[str, int]
) -> tuple[list[Cut], dict[str, str]]:
    """Return the cut of each group, and the reason for the layers of groups that stay whole.

    ``ratio`` and ``own`` are fractions of ``whole``, the widths before the first round.
    """
    thresholds = _thresholds(step, [group for group in groups if group.root not in own], ratio, whole)
    cuts: list[Cut] = []
    reasons: dict[str, str] = {}
    for group in groups:
        size = whole[group.root]
        threshold = thresholds.get(group.root)
        if threshold is not None:
            above = int((group.importance > threshold).sum())
            target = max(float(above), _LEAST_RANKED * size * len(group.units) / group.width)
        else:
            target = size * (1 - own.get(group.root, ratio)) * len(group.units) / group.width
        kept = rounded(target, group.step, len(group.units))
        if kept == len(group.units):
            why = _why_whole(step, group, ranked=threshold is not None)
            reasons.update(dict.fromkeys(group.members, why))
            continue
        pruned = group.importance.argsort(stable=True)[: len(group.units) - kept].tolist()
        channels = sorted(channel for place in pruned for channel in group.units[place])
        counted = tuple((path, name, kept * each) for path, name, each in group.counters or ())
        cuts.append(Cut(group.root, group.members, tuple(channels), counted=counted))
    return cuts, reasons


def rounded(target: float, multiple: int, most: int) -> int:
    """Return the nearest multiple, at least one and at most ``most``."""
    return min(most, max(multiple, floor(target / multiple + 0.5) * multiple))


def _thresholds(step: Prune, groups: Sequence[Group], ratio: float, whole: Mapping[str, int]) -> dict[str, float]:
    """Return the importance up to which channels are pruned, by root, for groups ranked with others."""
    if step.scope == "local":
        return {}
    together: dict[str, list[Group]] = {}
    for group in groups:
        together.setdefault(group.structure if step.scope == "isomorphic" else "", []).append(group)
    thresholds: dict[str, float] = {}
    for peers in together.values():
        thresholds.update(dict.fromkeys((group.root for group in peers), _threshold(peers, ratio, whole)))
    return thresholds


def _threshold(groups: Sequence[Group], ratio: float, whole: Mapping[str, int]) -> float:
    """Return the importance up to which channels are pruned to keep ``1 - ratio`` of those of ``whole``."""
    sizes = [torch.tensor([len(unit) for unit in group.units]) for group in groups]
    scores = [group.importance.repeat_interleave(size) for group, size in zip(groups, sizes, strict=True)]
    ranked = torch.cat(scores).sort().values
    count = len(ranked) - round((1 - ratio) * sum(whole[group.root] for group in groups))
    return float(ranked[count - 1]) if count > 0 else float("-inf")


def _why_whole(step: Prune, group: Group, *, ranked: bool) -> str:
    if ranked:
        return f"the ranking keeps all {group.width} channels"
    if group.counters is not None:
        return f"the nearest number of attention heads keeps all {len(group.units)}"
    multiple = group.step * len(group.units[0])
    if multiple > step.round_to:
        rule = f"a step of {multiple} channels, the same number in each block,"
    else:
        rule = f"round_to={step.round_to}"
    return f"{rule} keeps all {group.width} channels"
