"""The ways to cut a weight: what every rank keeps and costs, and the layers that come out."""

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

from workbench.compress.factorize.candidates import Convolution, Spot

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """One choice of ranks: what it keeps of the energy (the squared Frobenius norm), weights, and MACs per sample."""

    method: str
    ranks: tuple[int, ...]
    full: tuple[int, ...]
    kept: float
    params: float
    macs: float


@dataclass(frozen=True)
class Table:
    """Every choice that a split has: ``ranks [n, modes]``, and what each keeps and costs ``[n]``."""

    method: str
    full: tuple[int, ...]
    ranks: npt.NDArray[np.int64]
    kept: Floats
    params: Floats
    macs: Floats

    def at(self, place: int) -> Choice:
        """Return one row."""
        ranks = tuple(int(rank) for rank in self.ranks[place])
        numbers = (float(column[place]) for column in (self.kept, self.params, self.macs))
        return Choice(self.method, ranks, self.full, *numbers)

    def with_ranks(self, ranks: Sequence[int]) -> Choice:
        """Return the row of these ranks."""
        return self.at(int(np.flatnonzero((self.ranks == np.asarray(ranks)).all(axis=1))[0]))


class Split(ABC):
    """A decomposed weight, from which layers of any rank can be cut."""

    method: str

    def __init__(self, spot: Spot) -> None:
        self.spot = spot
        self.weight = spot.weight  # [groups, out, in, *kernel]

    @property
    @abstractmethod
    def full(self) -> tuple[int, ...]:
        """The full rank in each mode."""

    @abstractmethod
    def unfolded(self) -> list[torch.Tensor]:
        """Return for each mode the matrices ``[groups, rows, columns]`` whose rank it is."""

    @abstractmethod
    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        """Return the layers of these ranks; on the same inputs they give the outputs of the truncated weight."""

    @abstractmethod
    def table(self) -> Table:
        """Return every choice of ranks."""

    def _one_rank(self, energies: torch.Tensor, params: float, macs: float) -> Table:
        """Return the table of a split with one rank, each unit of which costs ``params`` and ``macs``."""
        ranks = np.arange(1, len(energies) + 1)
        units: Floats = ranks.astype(np.float64)
        return Table(self.method, self.full, ranks[:, None], _kept(energies.cumsum(0)), units * params, units * macs)

    def _finished(self, *layers: nn.Module) -> nn.Sequential:
        """Return the layers in a row, the old bias in the last one."""
        old: Any = self.spot.layer
        new = nn.Sequential(*layers).to(old.weight.device, old.weight.dtype).train(old.training)
        last: Any = layers[-1]
        if getattr(old, "bias", None) is not None:
            with torch.no_grad():
                last.bias.copy_(old.bias)
        return new.requires_grad_(old.weight.requires_grad)


class Channel(Split):
    """``W [out, in * kernel]`` as a product: ``U [out, r] @ V [r, in * kernel]``.

    A Linear becomes two Linears, an Embedding ``[rows, d]`` one of ``r`` columns and a Linear, a convolution one with
    the same kernel to ``r`` channels and a 1x1 one (Zhang et al. 2016, arXiv 1505.06798); with groups each for itself.
    With ``gram``, the second moments of the outputs ``[groups, out, out]``, the truncation is the best one for those
    outputs instead of the weight (SVD-LLM, arXiv 2403.07378, without ever inverting a matrix: the best projection of
    ``Y = W X`` is that on the leading eigenvectors of ``Y Y^T``, whatever ``X``).
    """

    def __init__(self, spot: Spot, gram: torch.Tensor | None = None) -> None:
        super().__init__(spot)
        self.method = "channel" if isinstance(spot.layer, Convolution) else "svd"
        matrix = self.weight.flatten(2)
        if gram is None:
            self._left, values, self._right = torch.linalg.svd(matrix, full_matrices=False)
            self._energies = values.square()
            self._roots = values.sqrt()
            return
        self._energies, self._left = _principal(gram, matrix)
        self._right = self._left.mT @ matrix
        norms = self._right.norm(dim=2)
        self._right = self._right / norms.clamp_min(1e-300)[..., None]
        self._roots = norms.sqrt()

    @property
    def full(self) -> tuple[int, ...]:
        return (self._roots.shape[1],)

    def unfolded(self) -> list[torch.Tensor]:
        return [self.weight.flatten(2)]

    def table(self) -> Table:
        spot, (groups, out, into) = self.spot, self.weight.flatten(2).shape
        energies = self._energies.sum(0)
        if isinstance(spot.layer, nn.Embedding):
            return self._one_rank(energies, into + out, out * spot.outer)
        weights = groups * (into + out)
        return self._one_rank(energies, weights, weights * spot.outer)

    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        (rank,), layer = ranks, self.spot.layer
        right = self._roots[:, :rank, None] * self._right[:, :rank]
        left = self._left[:, :, :rank] * self._roots[:, None, :rank]
        if isinstance(layer, Convolution):
            groups, kernel = layer.groups, layer.kernel_size
            first = _conv(layer, layer.in_channels, groups * rank, right.reshape(groups * rank, -1, *kernel))
            ones = (1,) * len(kernel)
            second = _point(layer, groups * rank, layer.out_channels, left.reshape(-1, rank, *ones))
            return self._finished(first, second)
        has_bias = getattr(layer, "bias", None) is not None
        if isinstance(layer, nn.Embedding):
            table = nn.Embedding(layer.num_embeddings, rank, padding_idx=layer.padding_idx)
            return self._finished(_set(table, right[0].T), _linear(left[0], bias=False))
        return self._finished(_linear(right[0], bias=False), _linear(left[0], bias=has_bias))


class Spatial(Split):
    """``k x 1`` to ``r`` channels, then ``1 x k``: the kernel's axes apart (Jaderberg et al. 2014, arXiv 1405.3866)."""

    method = "spatial"

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._left, values, self._right = torch.linalg.svd(self.unfolded()[0], full_matrices=False)
        self._energies, self._roots = values.square(), values.sqrt()

    @property
    def full(self) -> tuple[int, ...]:
        return (self._roots.shape[1],)

    def unfolded(self) -> list[torch.Tensor]:
        # [groups, in * high, out * wide]
        return [self.weight.permute(0, 2, 3, 1, 4).flatten(3, 4).flatten(1, 2)]

    def table(self) -> Table:
        groups, out, into, high, wide = self.weight.shape
        down, across = groups * into * high, groups * out * wide
        macs = down * self.spot.middle + across * self.spot.outer
        return self._one_rank(self._energies.sum(0), down + across, macs)

    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        (rank,), layer = ranks, self.spot.layer
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"only a Conv2d has two axes to cut, got a {type(layer).__name__}")
        groups, out, into, high, wide = self.weight.shape
        left = (self._left[:, :, :rank] * self._roots[:, None, :rank]).mT.reshape(groups * rank, into, high, 1)
        right = self._roots[:, :rank, None] * self._right[:, :rank]
        right = right.reshape(groups, rank, out, wide).transpose(1, 2).reshape(groups * out, rank, 1, wide)
        first = _conv(layer, layer.in_channels, groups * rank, left, axes=(0,))
        second = _conv(layer, groups * rank, layer.out_channels, right, axes=(1,), bias=layer.bias is not None)
        return self._finished(first, second)


class Tucker2(Split):
    """1x1 to ``r1`` channels, the kernel from ``r1`` to ``r2``, 1x1 to all: Tucker decomposition of both channel modes.

    Kim et al. 2016, arXiv 1511.06530; by higher-order SVD (De Lathauwer et al. 2000). The first rank is that of the
    inputs, the second that of the outputs.
    """

    method = "tucker2"

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot)
        self._into, self._out = (torch.linalg.svd(m, full_matrices=False)[0] for m in self.unfolded())
        self._core = torch.einsum("goik,goq,gip->gqpk", self.weight.flatten(3), self._out, self._into)

    @property
    def full(self) -> tuple[int, ...]:
        return (self._into.shape[2], self._out.shape[2])

    def unfolded(self) -> list[torch.Tensor]:
        weight = self.weight.flatten(3)
        return [weight.transpose(1, 2).flatten(2), weight.flatten(2)]

    def table(self) -> Table:
        groups, out, into = self.weight.shape[:3]
        spot, kernel = self.spot, math.prod(self.weight.shape[3:])
        # The kept energy of any pair of ranks is that of the core's corner: the factors are orthonormal.
        corner = self._core.square().sum((0, 3)).cumsum(0).cumsum(1)  # [out rank, in rank]
        second, first = (grid.ravel() for grid in np.indices(tuple(corner.shape)) + 1)
        parts = (groups * into * first, groups * kernel * first * second, groups * out * second)
        macs = parts[0] * spot.inner + (parts[1] + parts[2]) * spot.outer
        ranks = np.stack([first, second], axis=1)
        return Table(self.method, self.full, ranks, _kept(corner.flatten()), sum(parts).astype(float), macs)

    def make(self, ranks: Sequence[int]) -> nn.Sequential:
        (first, second), layer = ranks, self.spot.layer
        if not isinstance(layer, Convolution):
            raise TypeError(f"only a convolution has a kernel to keep, got a {type(layer).__name__}")
        groups, kernel = layer.groups, layer.kernel_size
        ones = (1,) * len(kernel)
        into = self._into[:, :, :first].mT.reshape(groups * first, -1, *ones)
        core = self._core[:, :second, :first].reshape(groups * second, first, *kernel)
        out = self._out[:, :, :second].reshape(-1, second, *ones)
        return self._finished(
            _point(layer, layer.in_channels, groups * first, into, bias=False),
            _conv(layer, groups * first, groups * second, core),
            _point(layer, groups * second, layer.out_channels, out),
        )


def open_split(spot: Spot, method: str, gram: torch.Tensor | None = None) -> Split:
    """Decompose the weight of a layer; ``gram`` is for the methods ``svd`` and ``channel``."""
    if method == "spatial":
        return Spatial(spot)
    return Tucker2(spot) if method == "tucker2" else Channel(spot, gram)


def _principal(gram: torch.Tensor, matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the energies ``[groups, r]``, largest first, and directions ``[groups, out, r]`` of the outputs.

    A trace of the weight's own moments tells apart directions that the outputs never took.
    """
    own = matrix @ matrix.mT
    scale = gram.diagonal(dim1=1, dim2=2).sum(1) / own.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-300)
    mixed = gram + 1e-9 * scale.clamp_min(1e-12)[:, None, None] * own
    values, vectors = torch.linalg.eigh(mixed)
    rank = min(matrix.shape[1:])
    return values.flip(1)[:, :rank].clamp_min(0), vectors.flip(2)[:, :, :rank]


def _kept(energies: torch.Tensor) -> Floats:
    shares = energies / energies.max().clamp_min(1e-300)
    found: Floats = (shares if float(energies.max()) > 0 else torch.ones_like(shares)).numpy()
    return found


def _conv(
    layer: Convolution,
    into: int,
    out: int,
    weight: torch.Tensor,
    *,
    axes: Sequence[int] | None = None,
    bias: bool = False,
) -> nn.Module:
    """Return a convolution with kernel, stride, padding and dilation of ``layer`` along ``axes`` (None: all)."""
    count = len(layer.kernel_size)
    chosen = range(count) if axes is None else axes

    def along(values: Sequence[int], rest: int) -> tuple[int, ...]:
        return tuple(value if axis in chosen else rest for axis, value in enumerate(values))

    padding = layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0)
    make: Any = type(layer)
    new: nn.Module = make(
        into,
        out,
        along(layer.kernel_size, 1),
        along(layer.stride, 1),
        padding,
        along(layer.dilation, 1),
        groups=layer.groups,
        bias=bias,
        padding_mode=layer.padding_mode,
    )
    return _set(new, weight)


def _point(layer: Convolution, into: int, out: int, weight: torch.Tensor, *, bias: bool | None = None) -> nn.Module:
    """Return a convolution of one place, with a bias where ``layer`` has one."""
    make: Any = type(layer)
    has_bias = layer.bias is not None if bias is None else bias
    new: nn.Module = make(into, out, 1, groups=layer.groups, bias=has_bias)
    return _set(new, weight)


def _linear(weight: torch.Tensor, *, bias: bool) -> nn.Module:
    return _set(nn.Linear(weight.shape[1], weight.shape[0], bias=bias), weight)


def _set(layer: Any, weight: torch.Tensor) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(weight)
    made: nn.Module = layer
    return made
