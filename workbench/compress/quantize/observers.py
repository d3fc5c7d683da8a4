"""How ranges are found from what is seen: cut at a percentile, or where the mean square rounding error is least.

torchao's own histogram observer searches a range too, but stops at the first step that makes the error larger.
"""

from __future__ import annotations

from typing import Any

import torch

from workbench.compress.graph.torchao_import import quiet_torchao

with quiet_torchao():
    from torchao.quantization.pt2e import observer

_SHRINK = torch.linspace(1.0, 0.3, 36)
_ACTIVATION_SHRINK = torch.linspace(1.0, 0.2, 33)


def scale_and_zero(
    low: torch.Tensor, high: torch.Tensor, levels: tuple[int, int], *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point of ranges ``[low, high]`` on the integers ``levels``; zero is always on the grid.

    Symmetric ranges have the zero point 0 and reach ``-high`` to ``high``.
    """
    first, last = levels
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if symmetric:
        scale = torch.maximum(-low, high) / ((last - first) / 2)
        return scale.clamp(min=2.0**-24), torch.zeros_like(scale)
    scale = ((high - low) / (last - first)).clamp(min=2.0**-24)
    return scale, (first - torch.round(low / scale)).clamp(first, last)


def rounded(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, levels: tuple[int, int]) -> torch.Tensor:
    """Return ``x`` on the grid: quantized and dequantized, clipped at its ends."""
    return ((torch.round(x / scale) + zero).clamp(*levels) - zero) * scale


def least_square_range(
    rows: torch.Tensor, levels: tuple[int, int], *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shrunken range of each row [r, n] that rounds it with the least mean square error."""
    low, high = rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)
    best = torch.full_like(low, torch.inf)
    factor = torch.ones_like(low)
    for share in _SHRINK.tolist():
        scale, zero = scale_and_zero(low * share, high * share, levels, symmetric=symmetric)
        error = (rounded(rows, scale[:, None], zero[:, None], levels) - rows).square().mean(1)
        better = error < best
        best, factor = torch.where(better, error, best), torch.where(better, share, factor)
    return low * factor, high * factor


class _Ranged:
    """Mixin: with ``centered`` a range that holds negative values is widened to reach as far on both sides."""

    centered: bool

    def __init__(self, *, centered: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.centered = centered

    def _calculate_qparams(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.centered and bool((low < 0).any()):
            high = torch.maximum(-low, high)
            low = -high
        found: tuple[torch.Tensor, torch.Tensor] = super()._calculate_qparams(low, high)  # type: ignore[misc]
        return found


class MinMaxRange(_Ranged, observer.MinMaxObserver):  # type: ignore[misc]
    """From the least to the largest value seen."""


class HistogramRange(_Ranged, observer.HistogramObserver):  # type: ignore[misc]
    """torchao's search over a histogram of what was seen."""


class PercentileRange(HistogramRange):
    """The central ``percentile`` percent of the values seen: half of the rest is clipped on either side."""

    def __init__(self, *, percentile: float = 99.99, **options: Any) -> None:
        super().__init__(**options)
        self.percentile = percentile

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        counts = self.histogram.double()
        tail = (100.0 - self.percentile) / 200.0 * counts.sum()
        width = (self.max_val - self.min_val).double() / self.bins
        return (
            self.min_val + float(width * _bins_holding(counts, tail)),
            self.max_val - float(width * _bins_holding(counts.flip(0), tail)),
        )


def _bins_holding(counts: torch.Tensor, tail: torch.Tensor) -> torch.Tensor:
    """Return how many bins from the start, with a part of one, hold ``tail`` values."""
    running = counts.cumsum(0)
    index = int(torch.searchsorted(running, tail, right=True).clamp(max=len(counts) - 1))
    before = running[index] - counts[index]
    return index + ((tail - before) / counts[index].clamp(min=1e-12)).clamp(0.0, 1.0)


class MeanSquareRange(HistogramRange):
    """The range with the least mean square error of rounding and clipping, over a grid of shrunken ranges."""

    def _non_linear_param_search(self) -> tuple[torch.Tensor, torch.Tensor]:
        counts = self.histogram.double()
        centers = self.min_val + (torch.arange(self.bins) + 0.5) * (self.max_val - self.min_val) / self.bins
        levels = (self.quant_min, self.quant_max)
        best = (torch.inf, self.min_val, self.max_val)
        for low in self._lows():
            highs = self.max_val.clamp(min=0.0) * _ACTIVATION_SHRINK
            lows = torch.full_like(highs, low)
            if self.centered and low < 0:
                highs, lows = torch.maximum(highs, -lows), -torch.maximum(highs, -lows)
            scale, zero = scale_and_zero(lows, highs, levels, symmetric=False)
            apart = rounded(centers[None], scale[:, None], zero[:, None], levels) - centers[None]
            errors = (apart.double().square() * counts).sum(1)
            at = int(errors.argmin())
            if float(errors[at]) < best[0]:
                best = (float(errors[at]), lows[at], highs[at])
        return best[1], best[2]

    def _lows(self) -> list[float]:
        low = float(self.min_val.clamp(max=0.0))
        return [low * share for share in _ACTIVATION_SHRINK.tolist()] if low < 0 else [0.0]


class MeanSquareObserver(observer.MinMaxObserver):  # type: ignore[misc]
    """For weights: one range for all of them, shrunken to the least mean square error."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take the range from ``x`` alone; what was seen before is forgotten."""
        rows = x.detach().reshape(1, -1)
        low, high = least_square_range(rows, (self.quant_min, self.quant_max), symmetric=_is_symmetric(self))
        _keep(self, low[0], high[0])
        return x


class MeanSquarePerChannelObserver(observer.PerChannelMinMaxObserver):  # type: ignore[misc]
    """For weights: a range for each channel, shrunken to the least mean square error."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take the ranges from ``x`` alone; what was seen before is forgotten."""
        rows = x.detach().transpose(0, self.ch_axis).flatten(1)
        _keep(self, *least_square_range(rows, (self.quant_min, self.quant_max), symmetric=_is_symmetric(self)))
        return x


def _is_symmetric(found: Any) -> bool:
    return found.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)


def _keep(found: Any, low: torch.Tensor, high: torch.Tensor) -> None:
    found.min_val.resize_(low.shape).copy_(low)
    found.max_val.resize_(high.shape).copy_(high)


RANGES: dict[str, Any] = {
    "minmax": MinMaxRange,
    "histogram": HistogramRange,
    "percentile": PercentileRange,
    "mse": MeanSquareRange,
}
"""Name of each way to find the range of an activation, as ``Quantize.observer`` takes it."""
