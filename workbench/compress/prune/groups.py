"""Group layers whose channels are pruned together, and split the channels into units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from math import lcm
from typing import Any, TypeGuard

import torch
from torch import nn

from workbench.compress.graph.outputs import output_layers
from workbench.compress.model_ops import unfrozen
from workbench.compress.prune.verify_cut import dependency_graph
from workbench.tasks.trees import Tree

Units = tuple[tuple[int, ...], ...]
Counters = tuple[tuple[str, str, int], ...]
"""Attributes for the number of heads or their joint width, with the amount per head: ``("block", "head_size", 64)``."""

_WIDTH_OF_ONE = ("head_dim", "head_width", "attention_head_size", "dim_head", "d_head")
_NUMBER = ("num_heads", "heads", "n_heads", "n_head", "nhead", "num_attention_heads")
_WIDTH_OF_ALL = ("all_head_size", "inner_dim", "embed_dim", "split_size")
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
Scorer = Callable[[Any], torch.Tensor | None]
"""Returns a score per channel of the root of a torch-pruning group; None if it does not apply."""
MODEL_OUTPUTS = "its channels are outputs of the model"
_LOST = "its channels cannot be followed through a later split, shuffle or custom function"


@dataclass(frozen=True)
class Group:
    """Layers whose output channels are pruned together.

    ``units`` are the channels of ``root`` pruned at once (one channel, one in each block of a grouped convolution, or
    an attention head, for which ``counters`` are not None); ``importance`` is the mean over each unit; ``step`` is the
    number of units pruned at a time, so that the width is a multiple of ``round_to``. Groups of equal ``structure``
    have the same layer types in the same places.
    """

    root: str
    members: tuple[str, ...]
    units: Units
    importance: torch.Tensor
    step: int
    structure: str
    counters: Counters | None = None

    @property
    def width(self) -> int:
        """Number of channels."""
        return sum(len(unit) for unit in self.units)


def find_groups(
    module: nn.Module, example: Tree, scorer: Scorer, *, skip_reasons: Mapping[str, str], round_to: int
) -> tuple[list[Group], dict[str, str]]:
    """Return the prunable groups, and the reason for every layer of the others.

    ``skip_reasons`` holds the layers that keep their outputs, with the reason.
    """
    with unfrozen(module):
        graph = dependency_graph(module, example)
    fixed = output_layers(module, example, PRUNABLE)
    names = {layer: name for name, layer in module.named_modules()}
    groups: list[Group] = []
    reasons: dict[str, str] = {}
    for group in graph.get_all_groups(root_module_types=list(PRUNABLE)):
        outs = [dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        members = tuple(dict.fromkeys(names[m] for m in outs if isinstance(m, PRUNABLE) and m in names))
        layers = [dep.target.module for dep, _ in group]
        why = _refusal(members, outs, layers, skip_reasons, fixed) or _astray(graph, group)
        scores = None if why else scorer(group)
        if scores is None:
            reasons.update(dict.fromkeys(members, why or "the importance does not apply to it"))
            continue
        groups.append(_group(module, members, scores.detach().double(), graph, group, round_to))
    return groups, reasons


def _group(
    module: nn.Module, members: tuple[str, ...], scores: torch.Tensor, graph: Any, group: Any, round_to: int
) -> Group:
    width = len(scores)
    widths = [len(idxs) for dep, idxs in group if graph.is_in_channel_pruning_fn(dep.handler)]
    heads = find_heads(module, members[0], width, widths)
    if heads is not None:
        (units, counters), step = heads, 1
    else:
        counters = None
        blocks = _channel_blocks([dep.target.module for dep, _ in group])
        size = width // blocks
        units = tuple(tuple(place + block * size for block in range(blocks)) for place in range(size))
        if _drags(graph, group, module.get_submodule(members[0]), units):
            units = _closed(graph, module.get_submodule(members[0]), units)
        each = {len(unit) for unit in units}
        step = lcm(round_to, *each) // max(each) if len(each) == 1 else 1
    importance = torch.stack([scores[list(unit)].mean() for unit in units])
    structure = _structure(graph, group) + (" heads" if heads is not None else "")
    return Group(members[0], members, units, importance, step, structure, counters)


def _drags(graph: Any, group: Any, layer: nn.Module, units: Sequence[tuple[int, ...]]) -> bool:
    """Return whether units may prune others of the same layer, as both halves of a gate do."""
    if any(type(dep.target.module).__name__ == "_SplitOp" for dep, _ in group):
        return True
    some = {units[0], units[len(units) // 2], units[-1]}
    return any(not set(_taken(graph, layer, unit)) <= set(unit) for unit in some)


def _taken(graph: Any, layer: nn.Module, channels: Sequence[int]) -> list[int]:
    """Return the channels of a layer that are pruned with some of them."""
    group = graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, list(channels))
    return [
        channel
        for dep, pruned in group
        if dep.target.module is layer and graph.is_out_channel_pruning_fn(dep.handler)
        for channel in pruned
    ]


def _closed(graph: Any, layer: nn.Module, units: Sequence[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    """Return units merged until none prunes channels of another."""
    owner = list(range(sum(map(len, units))))

    def find(channel: int) -> int:
        while owner[channel] != channel:
            owner[channel] = owner[owner[channel]]
            channel = owner[channel]
        return channel

    for unit in units:
        for channel in (*unit, *_taken(graph, layer, unit)):
            owner[find(channel)] = find(unit[0])
    together: dict[int, list[int]] = {}
    for channel in range(len(owner)):
        together.setdefault(find(channel), []).append(channel)
    return tuple(map(tuple, together.values()))


def _structure(graph: Any, group: Any) -> str:
    """Return the layer types of a group with the side on which each is cut.

    As in the isomorphic pruner of torch-pruning (Fang et al., Isomorphic Pruning for Vision Models, arXiv 2407.04616).
    """
    parts = []
    for dep, _ in group:
        side = "out" if graph.is_out_channel_pruning_fn(dep.handler) else "in"
        parts.append(f"{type(dep.source.module).__name__}>{type(dep.target.module).__name__}:{side}")
    return " ".join(parts)


def _refusal(
    members: Sequence[str], outs: Sequence[nn.Module], layers: Sequence[Any], skip: Mapping[str, str], fixed: Set[str]
) -> str | None:
    if any(name in fixed for name in members):
        return MODEL_OUTPUTS
    blocked = [name for name in members if name in skip]
    if blocked:
        why = skip[blocked[0]]
        return why if len(members) == 1 else f"shares its channels with {blocked[0]}, {why}"
    if any(isinstance(m, nn.LayerNorm | nn.RMSNorm) for m in outs):
        return "its channels are normalized together (LayerNorm): cutting some changes all others"
    if any(getattr(m, "transposed", False) and m.groups > 1 for m in layers):
        return "a grouped transposed convolution reads them, which Prune does not cut"
    if any(isinstance(m, nn.LSTM | nn.MultiheadAttention) for m in outs):
        return "its channels belong to attention heads or recurrent gates"
    return None


def _astray(graph: Any, group: Any) -> str | None:
    """Return a reason if torch-pruning counts channels that do not exist, after a reshape."""
    if getattr(group, "is_lost", False):
        return _LOST
    for dep, channels in group:
        out = graph.is_out_channel_pruning_fn(dep.handler)
        width = (graph.get_out_channels if out else graph.get_in_channels)(dep.target)
        if width is not None and max(channels, default=0) >= width:
            return _LOST
    return None


def _channel_blocks(touched: Sequence[nn.Module]) -> int:
    """Return the number of equal blocks that must lose the same channels (grouped layers)."""
    blocks = 1
    for layer in touched:
        if isinstance(layer, nn.GroupNorm):
            blocks = lcm(blocks, layer.num_groups)
        elif is_grouped(layer):
            blocks = lcm(blocks, layer.groups)
    return blocks


def is_grouped(layer: nn.Module) -> TypeGuard[nn.modules.conv._ConvNd]:
    """Return whether a layer is a convolution with groups of several channels."""
    return isinstance(layer, nn.modules.conv._ConvNd) and 1 < layer.groups < layer.in_channels


def find_heads(module: nn.Module, root: str, width: int, reader_widths: Sequence[int]) -> tuple[Units, Counters] | None:
    """Return the channels of each head, and its counters, if ``root`` projects queries, keys or values, else None.

    The number or width of the heads is an attribute of the module around it. One Linear may project queries, keys and
    values together; ``reader_widths``, the inputs of the layers that read them, separate these.
    """
    if not isinstance(module.get_submodule(root), nn.Linear):
        return None
    path = root.rpartition(".")[0]
    around = module.get_submodule(path)
    inner = min(reader_widths, default=width)
    # The width of a head stays constant; the number of heads may be from before an earlier cut.
    size = _first(around, _WIDTH_OF_ONE) or inner // (_first(around, _NUMBER) or inner)
    if size < 2 or inner % size or width % inner:
        return None
    number = inner // size
    units = tuple(
        tuple(part + head * size + place for part in range(0, width, inner) for place in range(size))
        for head in range(number)
    )
    counters = [(path, name, 1) for name in _NUMBER if getattr(around, name, None) == number]
    counters += [(path, name, size) for name in _WIDTH_OF_ALL if getattr(around, name, None) == inner]
    return units, tuple(counters)


def _first(module: nn.Module, names: Sequence[str]) -> int | None:
    values = (getattr(module, name, None) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), None)
