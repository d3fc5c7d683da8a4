"""Weights as blocks that become zero together, and how many of the least of them go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

SPARSE_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
# Neighbouring inputs that make a vector where a layer has no rows in a kernel.
_VECTOR = 4
# No layer falls below this share of its weights where layers are compared: one at zero cuts the net in two.
_LEAST_LEFT = 0.02


@dataclass(frozen=True)
class Blocks:
    """How a weight ``[out, in, *kernel]`` falls into blocks of ``size`` weights, neighbours along the kernel or inputs.

    ``view`` brings a tensor of the weight's shape into ``[blocks, size]``, and ``back`` the other way.
    """

    shape: tuple[int, ...]
    size: int
    inputs_last: bool

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor`` as ``[blocks, size]``."""
        moved = tensor.movedim(1, -1) if self.inputs_last else tensor
        return moved.reshape(-1, self.size)

    def back(self, blocks: torch.Tensor) -> torch.Tensor:
        """Return ``[blocks, size]`` (or ``[blocks, 1]``) in the weight's shape."""
        out, into, *kernel = self.shape
        order = (out, *kernel, into) if self.inputs_last else self.shape
        whole = blocks.expand(-1, self.size).reshape(order)
        return whole.movedim(-1, 1) if self.inputs_last else whole


def blocks_of(layer: Layer, granularity: str) -> Blocks | str:
    """Return how the weight of ``layer`` falls into blocks, or why it does not."""
    shape = tuple(layer.weight.shape)
    row = shape[-1] if len(shape) > 2 else 1
    kernel = int(torch.Size(shape[2:]).numel())
    if granularity == "weight":
        return Blocks(shape, 1, False)
    if granularity == "filter":
        return Blocks(shape, shape[1] * kernel, False)
    if granularity == "kernel":
        return "it has no kernels: use weight, vector or filter" if len(shape) == 2 else Blocks(shape, kernel, False)
    if row > 1:
        return Blocks(shape, row, False)
    if shape[1] % _VECTOR:
        return f"its {shape[1]} inputs are not a multiple of {_VECTOR}, the length of a vector"
    return Blocks(shape, _VECTOR, True)


def pattern_blocks(layer: Layer, size: int) -> Blocks | str:
    """Return the groups of ``size`` neighbouring inputs of an N:M pattern, or why there are none."""
    shape = tuple(layer.weight.shape)
    if shape[1] % size:
        return f"its {shape[1]} inputs are not a multiple of {size}"
    return Blocks(shape, size, True)


def keep_of_each(scores: torch.Tensor, weight: torch.Tensor, blocks: Blocks, kept: int) -> torch.Tensor:
    """Return the mask that keeps the ``kept`` best weights of every block; those at zero go first."""
    groups = blocks.view(scores.masked_fill(weight == 0, float("-inf")))
    best = groups.argsort(dim=1, descending=True, stable=True)[:, :kept]
    return blocks.back(torch.zeros_like(groups, dtype=torch.bool).scatter_(1, best, True))


def keep_best(
    scores: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    blocks: Mapping[str, Blocks],
    ratio: float,
    *,
    together: bool,
) -> dict[str, torch.Tensor]:
    """Return masks that leave ``1 - ratio`` of the weights, in whole blocks; the least go first, zeros before all.

    ``scores`` has a score per weight; a block's is their mean. ``together`` ranks the blocks of all layers in one list,
    and leaves every layer a few.
    """
    worth = {}
    for name, score in scores.items():
        alive = blocks[name].view(weights[name] != 0).any(1)
        worth[name] = blocks[name].view(score.double()).mean(1).masked_fill(~alive, float("-inf"))
    if not together:
        return {name: _mask(blocks[name], worth[name], round(ratio * len(worth[name]))) for name in worth}
    names = list(worth)
    layer = torch.cat([torch.full((len(worth[name]),), i) for i, name in enumerate(names)])
    sizes = torch.tensor([blocks[name].size for name in names], dtype=torch.float64)[layer]
    order = torch.cat([worth[name] for name in names]).argsort(stable=True)
    gone = order[sizes[order].cumsum(0) <= ratio * sizes.sum() + 1e-6]
    counts = torch.bincount(layer[gone], minlength=len(names)).tolist()
    return {
        name: _mask(blocks[name], worth[name], _at_most(count, worth[name]))
        for name, count in zip(names, counts, strict=True)
    }


def _at_most(count: int, worth: torch.Tensor) -> int:
    return min(count, len(worth) - max(1, round(_LEAST_LEFT * len(worth))))


def _mask(blocks: Blocks, worth: torch.Tensor, gone: int) -> torch.Tensor:
    """Return the mask without the ``gone`` blocks that are worth least; one block stays."""
    kept = torch.ones(len(worth), 1, dtype=torch.bool)
    kept[worth.argsort(stable=True)[: min(gone, len(worth) - 1)]] = False
    return blocks.back(kept)
