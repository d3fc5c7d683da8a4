"""Select the channels to prune in each group: per group, or ranked among groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor

import torch

from workbench.compress.layer_selection import matches, no_match_error
from workbench.compress.prune.groups import Group
from workbench.compress.prune.verify_cut import Cut
from workbench.compress.steps import Prune

# Least share of a group's width that a ranking among groups keeps: very narrow layers block the network.
_LEAST_RANKED = 0.1


def own_ratios(step: Prune, groups: Sequence[Group]) -> dict[str, float]:
    """Return the ratios of ``step.ratios``, by the roots of the groups that they name.

    Raises
    ------
    ConfigError
        If a name matches no prunable layer.
    """
    ratios: dict[str, float] = {}
    for entry in step.ratios:
        pattern, _, value = entry.rpartition("=")
        matched = [g.root for g in groups if any(matches(name, pattern) for name in g.members)]
        if not matched:
            names = [name for group in groups for name in group.members]
            raise no_match_error("Prune.ratios: no layer whose channels can be cut is called", pattern, names)
        ratios.update(dict.fromkeys(matched, float(value)))
    return ratios


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
        counters = group.heads.counters if group.heads else ()
        counted = tuple((path, name, kept * each) for path, name, each in counters)
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
    scores = (
        torch.cat([g.importance.repeat_interleave(size) for g, size in zip(groups, sizes, strict=True)]).sort().values
    )
    count = len(scores) - round((1 - ratio) * sum(whole[group.root] for group in groups))
    return float(scores[count - 1]) if count > 0 else float("-inf")


def _why_whole(step: Prune, group: Group, *, ranked: bool) -> str:
    if ranked:
        return f"the ranking keeps all {group.width} channels"
    if group.heads:
        return f"the nearest number of attention heads keeps all {len(group.units)}"
    multiple = group.step * len(group.units[0])
    if multiple > step.round_to:
        rule = f"a step of {multiple} channels, the same number in each block,"
    else:
        rule = f"round_to={step.round_to}"
    return f"{rule} keeps all {group.width} channels"
