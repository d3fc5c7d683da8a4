"""Which units of each group leave, for a share of the channels: group by group, or ranked among many groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor

import torch

from workbench.compress.layer_selection import matches, no_match_error
from workbench.compress.prune.groups import Group
from workbench.compress.prune.verify_cut import Cut
from workbench.compress.steps import Prune

# A ranking among many groups never cuts one below this share of its width: a layer of a few channels blocks the net.
_LEAST_RANKED = 0.1


def own_ratios(step: Prune, groups: Sequence[Group]) -> dict[str, float]:
    """Return the ratios that ``step.ratios`` gives to groups by name, by the groups' roots.

    Raises
    ------
    ConfigError
        If a name matches no layer whose channels can be cut.
    """
    found: dict[str, float] = {}
    for entry in step.ratios:
        pattern, _, value = entry.rpartition("=")
        matched = [g.root for g in groups if any(matches(name, pattern) for name in g.members)]
        if not matched:
            names = [name for group in groups for name in group.members]
            raise no_match_error("Prune.ratios: no layer whose channels can be cut is called", pattern, names)
        found.update(dict.fromkeys(matched, float(value)))
    return found


def select_channels(
    step: Prune, groups: Sequence[Group], ratio: float, *, own: Mapping[str, float], whole: Mapping[str, int]
) -> tuple[list[Cut], dict[str, str]]:
    """Return the channels to remove in each group, and for the layers of groups that stay whole the reason.

    ``ratio`` and ``own`` are shares of ``whole``, the widths before the first round.
    """
    thresholds = _thresholds(step, [group for group in groups if group.root not in own], ratio, whole)
    cuts: list[Cut] = []
    reasons: dict[str, str] = {}
    for group in groups:
        size = whole[group.root]
        threshold = thresholds.get(group.root)
        if threshold is not None:
            above = int((group.importance > threshold).sum())
            wanted = max(float(above), _LEAST_RANKED * size * len(group.units) / group.width)
        else:
            wanted = size * (1 - own.get(group.root, ratio)) * len(group.units) / group.width
        kept = rounded(wanted, group.step, len(group.units))
        if kept == len(group.units):
            why = _why_whole(step, group, ranked=threshold is not None)
            reasons.update(dict.fromkeys(group.members, why))
            continue
        gone = group.importance.argsort(stable=True)[: len(group.units) - kept].tolist()
        channels = sorted(channel for place in gone for channel in group.units[place])
        counters = group.heads.counters if group.heads else ()
        counted = tuple((path, name, kept * each) for path, name, each in counters)
        cuts.append(Cut(group.root, group.members, tuple(channels), counted=counted))
    return cuts, reasons


def rounded(wanted: float, multiple: int, most: int) -> int:
    """Return the multiple nearest to ``wanted``, at least one and at most ``most``."""
    return min(most, max(multiple, floor(wanted / multiple + 0.5) * multiple))


def _thresholds(step: Prune, groups: Sequence[Group], ratio: float, whole: Mapping[str, int]) -> dict[str, float]:
    """Return for each group that is ranked with others, by its root, the worth up to which channels leave."""
    if step.scope == "local":
        return {}
    together: dict[str, list[Group]] = {}
    for group in groups:
        together.setdefault(group.structure if step.scope == "isomorphic" else "", []).append(group)
    found: dict[str, float] = {}
    for peers in together.values():
        found.update(dict.fromkeys((group.root for group in peers), _threshold(peers, ratio, whole)))
    return found


def _threshold(groups: Sequence[Group], ratio: float, whole: Mapping[str, int]) -> float:
    """Return the worth up to which channels leave, so that ``1 - ratio`` of all channels of ``whole`` stay."""
    sizes = [torch.tensor([len(unit) for unit in group.units]) for group in groups]
    scores = (
        torch.cat([g.importance.repeat_interleave(size) for g, size in zip(groups, sizes, strict=True)]).sort().values
    )
    gone = len(scores) - round((1 - ratio) * sum(whole[group.root] for group in groups))
    return float(scores[gone - 1]) if gone > 0 else float("-inf")


def _why_whole(step: Prune, group: Group, *, ranked: bool) -> str:
    if ranked:
        return f"all its channels rank high keeps all {group.width} channels"
    if group.heads:
        return f"the nearest number of attention heads keeps all {len(group.units)}"
    multiple = group.step * len(group.units[0])
    if multiple > step.round_to:
        words = f"its groups lose the same number each, {multiple} channels at a time, which"
    else:
        words = f"round_to={step.round_to}"
    return f"{words} keeps all {group.width} channels"
