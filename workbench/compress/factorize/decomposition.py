"""Decompose weights (SVD, spatial, Tucker-2): energy and cost by rank, and the factor layers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from workbench.compress.factorize.candidates import CandidateLayer, Convolution

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankChoice:
    """Ranks with their kept fraction of the energy (squared Frobenius norm), weights, and MACs per sample."""

    method: str
    ranks: tuple[int, ...]
    full: tuple[int, ...]
    kept: float
    params: float
    macs: float


@dataclass(frozen=True)
class RankTable:
    """All choices of a decomposition: ``ranks [n, modes]``, and the kept energy and costs ``[n]``."""

    method: str
    full: tuple[int, ...]
    ranks: npt.NDArray[np.int64]
    kept: Floats
    params: Floats
    macs: Floats

    def at(self, place: int) -> RankChoice:
        """Return row ``place``."""
        ranks = tuple(int(rank) for rank in self.ranks[place])
        numbers = (float(column[place]) for column in (self.kept, self.params, self.macs))
        return RankChoice(self.method, ranks, self.full, *numbers)

    def with_ranks(self, ranks: Sequence[int]) -> RankChoice:
        """Return the row with these ranks."""
        return self.at(int(np.flatnonzero((self.ranks == np.asarray(ranks)).all(axis=1))[0]))


class Decomposition(ABC):
    """A decomposed weight, which gives layers of any rank."""

    method: str
    full: tuple[int, ...]
    """Full rank of each mode."""

    def __init__(self, candidate: CandidateLayer) -> None:
        self.candidate = candidate
        self.weight = candidate.weight  # [groups, out, in, *kernel]

    @abstractmethod
    def unfolded(self) -> list[torch.Tensor]:
        """Return the unfolding ``[groups, rows, columns]`` of each mode."""

    @abstractmethod
    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        """Return the layers of these ranks, equivalent to the truncated weight."""

    @abstractmethod
    def table(self) -> RankTable:
        """Return all choices of ranks."""

    def _one_rank(self, energies: torch.Tensor, params: float, macs: float) -> RankTable:
        """Return the table of a single-rank decomposition; ``params`` and ``macs`` are costs per unit of rank."""
        ranks: Floats = np.arange(1.0, len(energies) + 1)
        kept = _kept(energies.cumsum(0))
        return RankTable(self.method, self.full, ranks[:, None].astype(int), kept, ranks * params, ranks * macs)

    def _finished(self, *layers: nn.Module) -> nn.Sequential:
        """Return the layers in sequence, with the original bias in the last one."""
        old: Any = self.candidate.layer
        new = nn.Sequential(*layers).to(old.weight.device, old.weight.dtype).train(old.training)
        last: Any = layers[-1]
        if getattr(old, "bias", None) is not None:
            with torch.no_grad():
                last.bias.copy_(old.bias)
        return new.requires_grad_(old.weight.requires_grad)


class Channel(Decomposition):
    """SVD of ``W [out, in * kernel]``: ``U [out, r] @ V [r, in * kernel]``.

    A Linear becomes two Linears, an Embedding ``[rows, d]`` an Embedding of ``r`` columns and a Linear, a convolution
    its kernel to ``r`` channels and a 1x1 (Zhang et al. 2016, arXiv 1505.06798), group by group. With ``gram``, the
    second moments of the outputs ``[groups, out, out]``, the truncation is optimal for the outputs instead of the
    weight: a projection on the leading eigenvectors of ``Y Y^T`` (compare SVD-LLM, arXiv 2403.07378).
    """

    def __init__(self, candidate: CandidateLayer, gram: torch.Tensor | None = None) -> None:
        super().__init__(candidate)
        self.method = "channel" if isinstance(candidate.layer, Convolution) else "svd"
        matrix = self.weight.flatten(2)
        if gram is None:
            self._left, values, self._right = torch.linalg.svd(matrix, full_matrices=False)
            self._energies = values.square()
        else:
            self._energies, self._left = _principal(gram, matrix)
            self._right = self._left.mT @ matrix
            values = self._right.norm(dim=2)
            self._right = self._right / values.clamp_min(1e-300)[..., None]
        self._roots = values.sqrt()
        self.full = (values.shape[1],)

    def unfolded(self) -> list[torch.Tensor]:
        return [self.weight.flatten(2)]

    def table(self) -> RankTable:
        candidate, (groups, out, into) = self.candidate, self.weight.flatten(2).shape
        energies = self._energies.sum(0)
        if isinstance(candidate.layer, nn.Embedding):
            return self._one_rank(energies, into + out, out * candidate.outer)
        weights = groups * (into + out)
        return self._one_rank(energies, weights, weights * candidate.outer)

    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        (rank,), layer = ranks, self.candidate.layer
        right = self._roots[:, :rank, None] * self._right[:, :rank]
        left = self._left[:, :, :rank] * self._roots[:, None, :rank]
        if isinstance(layer, Convolution):
            ones = (1,) * len(layer.kernel_size)
            first = _conv(layer, right.reshape(layer.groups * rank, -1, *layer.kernel_size))
            return self._finished(first, _point(layer, left.reshape(-1, rank, *ones), bias=layer.bias is not None))
        has_bias = getattr(layer, "bias", None) is not None
        if isinstance(layer, nn.Embedding):
            table = nn.Embedding(layer.num_embeddings, rank, padding_idx=layer.padding_idx)
            return self._finished(_set(table, right[0].T), _linear(left[0], bias=False))
        return self._finished(_linear(right[0], bias=False), _linear(left[0], bias=has_bias))


class Spatial(Decomposition):
    """``k x 1`` to ``r`` channels, then ``1 x k`` (Jaderberg et al. 2014, arXiv 1405.3866)."""

    method = "spatial"

    def __init__(self, candidate: CandidateLayer) -> None:
        super().__init__(candidate)
        self._left, values, self._right = torch.linalg.svd(self.unfolded()[0], full_matrices=False)
        self._energies, self._roots = values.square(), values.sqrt()
        self.full = (values.shape[1],)

    def unfolded(self) -> list[torch.Tensor]:
        # [groups, in * high, out * wide]
        return [self.weight.permute(0, 2, 3, 1, 4).flatten(3, 4).flatten(1, 2)]

    def table(self) -> RankTable:
        groups, out, into, high, wide = self.weight.shape
        down, across = groups * into * high, groups * out * wide
        macs = down * self.candidate.middle + across * self.candidate.outer
        return self._one_rank(self._energies.sum(0), down + across, macs)

    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        (rank,), layer = ranks, self.candidate.layer
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"a spatial decomposition needs a Conv2d, got a {type(layer).__name__}")
        groups, out, into, high, wide = self.weight.shape
        left = (self._left[:, :, :rank] * self._roots[:, None, :rank]).mT.reshape(groups * rank, into, high, 1)
        right = self._roots[:, :rank, None] * self._right[:, :rank]
        right = right.reshape(groups, rank, out, wide).transpose(1, 2).reshape(groups * out, rank, 1, wide)
        first, second = _conv(layer, left, axes=(0,)), _conv(layer, right, axes=(1,), bias=layer.bias is not None)
        return self._finished(first, second)


class Tucker2(Decomposition):
    """1x1 to ``r1`` channels, the kernel from ``r1`` to ``r2``, 1x1 to all channels.

    Tucker decomposition of both channel modes (Kim et al. 2016, arXiv 1511.06530) by higher-order SVD (De Lathauwer et
    al. 2000). The ranks are those of inputs and outputs.
    """

    method = "tucker2"

    def __init__(self, candidate: CandidateLayer) -> None:
        super().__init__(candidate)
        self._into, self._out = (torch.linalg.svd(m, full_matrices=False)[0] for m in self.unfolded())
        self._core = torch.einsum("goik,goq,gip->gqpk", self.weight.flatten(3), self._out, self._into)
        self.full = (self._into.shape[2], self._out.shape[2])

    def unfolded(self) -> list[torch.Tensor]:
        weight = self.weight.flatten(3)
        return [weight.transpose(1, 2).flatten(2), weight.flatten(2)]

    def table(self) -> RankTable:
        groups, out, into = self.weight.shape[:3]
        candidate, kernel = self.candidate, math.prod(self.weight.shape[3:])
        # The factors are orthonormal: a pair of ranks keeps the energy of the core's corner.
        corner = self._core.square().sum((0, 3)).cumsum(0).cumsum(1)  # [out rank, in rank]
        second, first = (grid.ravel() for grid in np.indices(tuple(corner.shape)) + 1)
        parts = (groups * into * first, groups * kernel * first * second, groups * out * second)
        macs = parts[0] * candidate.inner + (parts[1] + parts[2]) * candidate.outer
        ranks = np.stack([first, second], axis=1)
        return RankTable(self.method, self.full, ranks, _kept(corner.flatten()), sum(parts).astype(float), macs)

    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        (first, second), layer = ranks, self.candidate.layer
        if not isinstance(layer, Convolution):
            raise TypeError(f"Tucker-2 needs a convolution, got a {type(layer).__name__}")
        groups, kernel = layer.groups, layer.kernel_size
        ones = (1,) * len(kernel)
        into = self._into[:, :, :first].mT.reshape(groups * first, -1, *ones)
        core = self._core[:, :second, :first].reshape(groups * second, first, *kernel)
        out = self._out[:, :, :second].reshape(-1, second, *ones)
        return self._finished(_point(layer, into), _conv(layer, core), _point(layer, out, bias=layer.bias is not None))


def decompose(candidate: CandidateLayer, method: str, gram: torch.Tensor | None = None) -> Decomposition:
    """Decompose the weight of a layer; ``gram`` is for the methods ``svd`` and ``channel``."""
    if method == "spatial":
        return Spatial(candidate)
    return Tucker2(candidate) if method == "tucker2" else Channel(candidate, gram)


def _principal(gram: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the energies ``[groups, r]``, largest first, and principal directions ``[groups, out, r]`` of the outputs.

    A trace of the weight's own moments orders directions without output energy.
    """
    own = matrix @ matrix.mT
    scale = gram.diagonal(dim1=1, dim2=2).sum(1) / own.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-300)
    mixed = gram + 1e-9 * scale.clamp_min(1e-12)[:, None, None] * own
    values, vectors = torch.linalg.eigh(mixed)
    rank = min(matrix.shape[1:])
    return values.flip(1)[:, :rank].clamp_min(0), vectors.flip(2)[:, :, :rank]


def _kept(energies: torch.Tensor) -> Floats:
    shares = energies / energies.max().clamp_min(1e-300)
    kept: Floats = (shares if float(energies.max()) > 0 else torch.ones_like(shares)).numpy()
    return kept


def _conv(
    layer: Convolution, weight: torch.Tensor, *, axes: Sequence[int] | None = None, bias: bool = False
) -> nn.Module:
    """Return a convolution with kernel, stride, padding and dilation of ``layer`` along ``axes`` (None: all)."""

    def along(values: Sequence[int], rest: int) -> tuple[int, ...]:
        return tuple(value if axes is None or axis in axes else rest for axis, value in enumerate(values))

    make: Any = type(layer)
    new = make(
        weight.shape[1] * layer.groups,
        weight.shape[0],
        along(layer.kernel_size, 1),
        along(layer.stride, 1),
        layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0),
        along(layer.dilation, 1),
        groups=layer.groups,
        bias=bias,
        padding_mode=layer.padding_mode,
    )
    return _set(new, weight)


def _point(layer: Convolution, weight: torch.Tensor, *, bias: bool = False) -> nn.Module:
    """Return a 1x1 convolution."""
    make: Any = type(layer)
    return _set(make(weight.shape[1] * layer.groups, weight.shape[0], 1, groups=layer.groups, bias=bias), weight)


def _linear(weight: torch.Tensor, *, bias: bool) -> nn.Module:
    return _set(nn.Linear(weight.shape[1], weight.shape[0], bias=bias), weight)


def _set(layer: nn.Module, weight: torch.Tensor) -> nn.Module:
    with torch.no_grad():
        layer.get_parameter("weight").copy_(weight)
    return layer
