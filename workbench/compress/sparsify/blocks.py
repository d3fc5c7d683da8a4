"""Blocks of weights that become zero together, and masks by block score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

SPARSE_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_VECTOR = 4  # consecutive inputs of a vector, for layers without kernel rows
_LEAST_LEFT = 0.02  # of each layer for scope="global": an all-zero layer cuts the network in two


@dataclass(frozen=True)
class Blocks:
    """A partition of a weight ``[out, in, *kernel]`` into blocks of ``size``, along the kernel or the inputs."""

    shape: tuple[int, ...]
    size: int
    inputs_last: bool

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor`` as ``[blocks, size]``."""
        moved = tensor.movedim(1, -1) if self.inputs_last else tensor
        return moved.reshape(-1, self.size)

    def back(self, blocks: torch.Tensor) -> torch.Tensor:
        """Return ``[blocks, size]`` (or ``[blocks, 1]``) in the weight's shape: the inverse of :meth:`view`."""
        out, into, *kernel = self.shape
        order = (out, *kernel, into) if self.inputs_last else self.shape
        whole = blocks.expand(-1, self.size).reshape(order)
        return whole.movedim(-1, 1) if self.inputs_last else whole


def blocks_of(layer: Layer, granularity: str) -> Blocks | str:
    """Return the blocks of a layer's weight, or the reason why there are none."""
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
    """Return the blocks of ``size`` consecutive inputs for an N:M pattern, or the reason why there are none."""
    shape = tuple(layer.weight.shape)
    if shape[1] % size:
        return f"its {shape[1]} inputs are not a multiple of {size}"
    return Blocks(shape, size, True)


def keep_of_each(scores: torch.Tensor, weight: torch.Tensor, blocks: Blocks, kept: int) -> torch.Tensor:
    """Return the mask that keeps the ``kept`` best weights of every block; zeros rank last."""
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
    """Return masks that keep ``1 - ratio`` of the weights, in whole blocks of highest mean score; zeros rank last.

    ``together`` ranks the blocks of all layers in one list, but keeps a few of each layer.
    """
    block_scores = {}
    for name, score in scores.items():
        alive = blocks[name].view(weights[name] != 0).any(1)
        block_scores[name] = blocks[name].view(score.double()).mean(1).masked_fill(~alive, float("-inf"))
    if not together:
        return {name: _mask(blocks[name], own, round(ratio * len(own))) for name, own in block_scores.items()}
    names = list(block_scores)
    layer = torch.cat([torch.full((len(block_scores[name]),), i) for i, name in enumerate(names)])
    sizes = torch.tensor([blocks[name].size for name in names], dtype=torch.float64)[layer]
    order = torch.cat([block_scores[name] for name in names]).argsort(stable=True)
    dropped = order[sizes[order].cumsum(0) <= ratio * sizes.sum() + 1e-6]
    counts = torch.bincount(layer[dropped], minlength=len(names)).tolist()
    masks = {}
    for name, count in zip(names, counts, strict=True):
        most = len(block_scores[name]) - max(1, round(_LEAST_LEFT * len(block_scores[name])))
        masks[name] = _mask(blocks[name], block_scores[name], min(count, most))
    return masks


def _mask(blocks: Blocks, scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the mask without the ``count`` blocks of lowest score; one block stays."""
    kept = torch.ones(len(scores), 1, dtype=torch.bool)
    kept[scores.argsort(stable=True)[: min(count, len(scores) - 1)]] = False
    return blocks.back(kept)
