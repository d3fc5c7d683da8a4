"""Low-rank factorization: one layer becomes two thinner ones, cut by singular value decomposition.

A Linear ``W [out, in]`` becomes ``U [out, r] @ V [r, in]``. A convolution ``W [out, in, *kernel]`` becomes one with
the same kernel to ``r`` channels and a 1x1 one to ``out``: the decomposition of ``W`` as a matrix
``[out, in * kernel]`` (channel decomposition; Zhang et al. 2016, Accelerating Very Deep Convolutional Networks).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from workbench.compress.apply import Outcome, Work
from workbench.compress.names import excluded_names
from workbench.compress.steps import Factorize
from workbench.compress.variant import LayerReport
from workbench.core.progress import Progress
from workbench.tasks.trees import Tree, call_model

Layer = nn.Linear | nn.Conv2d


def factorize(step: Factorize, work: Work) -> Outcome:
    """Replace every layer that gets smaller by it; see :class:`Factorize`."""
    module, example = work.module, work.task.examples(2)
    excluded = excluded_names(module, step.exclude, where="Factorize")
    kinds = tuple({"Linear": nn.Linear, "Conv2d": nn.Conv2d}[name] for name in step.types)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    called, shared = _called(module, example), _shared_weights(module)
    reports = []
    for index, (name, layer) in enumerate(layers):
        work.progress(Progress("factorize", index, len(layers), name))
        why = "excluded by name" if name in excluded else _refusal(layer, kinds)
        if why is None and name not in called:
            why = "its forward is not called: the model uses its weight directly"
        if why is None and layer.weight in shared:
            why = "its weight is shared with another layer"
        touched, reason = (False, why) if why is not None else _try(step, module, name, layer, example)
        reports.append(LayerReport(name, type(layer).__name__, touched, reason))
    return Outcome(module, tuple(reports))


def split_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Return two Linears whose product is the best rank-``rank`` approximation of ``layer``."""
    left, right = _factors(layer.weight.detach(), rank)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return _filled(first, second, right, left, layer.bias)


def split_conv(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Return a convolution to ``rank`` channels with the same kernel, and a 1x1 convolution to all channels."""
    left, right = _factors(layer.weight.detach().flatten(1), rank)
    first = nn.Conv2d(
        layer.in_channels,
        rank,
        cast(tuple[int, int], layer.kernel_size),
        cast(tuple[int, int], layer.stride),
        cast(tuple[int, int] | str, layer.padding),
        cast(tuple[int, int], layer.dilation),
        bias=False,
        padding_mode=layer.padding_mode,
    )
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return _filled(first, second, right.reshape(first.weight.shape), left[:, :, None, None], layer.bias)


def rank_by_energy(values: torch.Tensor, energy: float) -> int:
    """Return the least rank whose squared singular values sum to ``energy`` of all; ``values`` descend."""
    squares = values.double().square()
    kept = squares.cumsum(0) / squares.sum().clamp_min(1e-300)
    return min(len(values), int((kept < energy - 1e-12).sum()) + 1)


def saving(layer: Layer, rank: int) -> float:
    """Return the share of parameters that ``rank`` saves; negative where two layers would be larger than one.

    It is the share of multiply-accumulates too: both factors work on the output's places (pixels, tokens), since the
    first one carries the stride.
    """
    rows, columns = layer.weight.shape[0], math.prod(layer.weight.shape[1:])
    return 1 - rank * (rows + columns) / (rows * columns)


def _try(step: Factorize, module: nn.Module, name: str, layer: Layer, example: Tree) -> tuple[bool, str]:
    """Replace one layer in ``module`` if that pays and the model still runs; return whether, and what was found."""
    values = torch.linalg.svdvals(layer.weight.detach().flatten(1).double())
    rank = rank_by_energy(values, step.energy) if step.ratio is None else max(1, round(step.ratio * len(values)))
    kept = float(values[:rank].square().sum() / values.square().sum().clamp_min(1e-300))
    what = f"rank {rank} of {len(values)} keeps {kept:.1%} of the energy"
    gain = saving(layer, rank)
    if gain < max(step.min_saving, 1e-9):
        verb = "saves" if gain > 0 else "would add"
        least = f"below min_saving {step.min_saving:.0%}" if gain > 0 else "past the break-even"
        return False, f"{what} and {verb} {abs(gain):.0%} of its parameters and MACs: {least}"
    new = split_linear(layer, rank) if isinstance(layer, nn.Linear) else split_conv(layer, rank)
    _put(module, name, new.train(layer.training))
    try:
        with torch.no_grad():
            call_model(module, example)
    except Exception as error:  # noqa: BLE001 - a forward that reaches into the layer may raise anything
        _put(module, name, layer)
        return False, f"the model's forward fails with two layers in its place ({type(error).__name__}: {error})"
    return True, f"{what}; {gain:.0%} fewer parameters and MACs"


def _factors(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``left [rows, rank]`` and ``right [rank, columns]``, each with the square root of the singular values."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    roots = values[:rank].sqrt()
    return (u[:, :rank] * roots).float(), (roots[:, None] * v[:rank]).float()


def _filled(
    first: Layer, second: Layer, right: torch.Tensor, left: torch.Tensor, bias: torch.Tensor | None
) -> nn.Sequential:
    with torch.no_grad():
        first.weight.copy_(right)
        second.weight.copy_(left)
        if bias is not None and second.bias is not None:
            second.bias.copy_(bias)
    return nn.Sequential(first, second)


def _put(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)


def _refusal(layer: Layer, kinds: tuple[type, ...]) -> str | None:
    if not isinstance(layer, kinds):
        return "not among the types asked for"
    if type(layer) not in (nn.Linear, nn.Conv2d):
        return f"a {type(layer).__name__} does more than a plain {type(layer).__mro__[1].__name__}"
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weight is computed (parametrized), not stored"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        depthwise = layer.groups == layer.in_channels
        return "depthwise: nothing to share between channels" if depthwise else "grouped: its groups share no factor"
    return None


def _called(module: nn.Module, example: Tree) -> frozenset[str]:
    """Return the names of the layers whose forward is called."""
    names: set[str] = set()
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: names.add(name))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    try:
        # Fused attention kernels, which call no layer, are off while gradients are on.
        with torch.enable_grad():
            call_model(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(names)


def _shared_weights(module: nn.Module) -> set[torch.Tensor]:
    seen: set[torch.Tensor] = set()
    shared: set[torch.Tensor] = set()
    for child in module.modules():
        for parameter in child.parameters(recurse=False):
            (shared if parameter in seen else seen).add(parameter)
    return shared
