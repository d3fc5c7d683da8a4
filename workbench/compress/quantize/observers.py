"""Observers of ranges (min-max, histogram, percentile, least mean square error), and fake quantization for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from workbench.core.quiet import quiet_torchao

with quiet_torchao():
    from torchao.quantization.pt2e import observer
    from torchao.quantization.pt2e.fake_quantize import FakeQuantize
    from torchao.quantization.pt2e.observer import ObserverBase

_SHRINK = torch.linspace(1.0, 0.3, 36)
_ACTIVATION_SHRINK = torch.linspace(1.0, 0.2, 33)


def scale_and_zero(
    low: torch.Tensor, high: torch.Tensor, levels: tuple[int, int], *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point of ranges ``[low, high]`` on the integers ``levels``; 0 is on the grid."""
    first, last = levels
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if symmetric:
        scale = torch.maximum(-low, high) / ((last - first) / 2)
        return scale.clamp(min=2.0**-24), torch.zeros_like(scale)
    scale = ((high - low) / (last - first)).clamp(min=2.0**-24)
    return scale, (first - torch.round(low / scale)).clamp(first, last)


def rounded(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, levels: tuple[int, int]) -> torch.Tensor:
    """Return ``x`` quantized and dequantized."""
    return ((torch.round(x / scale) + zero).clamp(*levels) - zero) * scale


def least_square_range(
    rows: torch.Tensor, levels: tuple[int, int], *, symmetric: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the shrunken range of each row [r, n] with the least mean square rounding error."""
    low, high = rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)
    best = torch.full_like(low, torch.inf)
    factor = torch.ones_like(low)
    for share in _SHRINK.tolist():
        scale, zero = scale_and_zero(low * share, high * share, levels, symmetric=symmetric)
        error = (rounded(rows, scale[:, None], zero[:, None], levels) - rows).square().mean(1)
        better = error < best
        best, factor = torch.where(better, error, best), torch.where(better, share, factor)
    return low * factor, high * factor


class _Centered:
    """Mixin: with ``centered``, make ranges with negative values symmetric around 0."""

    centered: bool

    def __init__(self, *, centered: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.centered = centered

    def _calculate_qparams(self, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.centered and bool((low < 0).any()):
            high = torch.maximum(-low, high)
            low = -high
        scale_zero: tuple[torch.Tensor, torch.Tensor] = super()._calculate_qparams(low, high)  # type: ignore[misc]
        return scale_zero


class MinMaxRange(_Centered, observer.MinMaxObserver):  # type: ignore[misc]
    """The range from the smallest to the largest value."""


class HistogramRange(_Centered, observer.HistogramObserver):  # type: ignore[misc]
    """torchao's range search over a histogram."""


class PercentileRange(HistogramRange):
    """The central ``percentile`` percent of the values."""

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
    """Return the (fractional) number of leading bins that hold ``tail`` values."""
    running = counts.cumsum(0)
    index = int(torch.searchsorted(running, tail, right=True).clamp(max=len(counts) - 1))
    before = running[index] - counts[index]
    return index + ((tail - before) / counts[index].clamp(min=1e-12)).clamp(0.0, 1.0)


class MeanSquareRange(HistogramRange):
    """The range with the least mean square error of rounding and clipping, by grid search."""

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
    """Per-tensor weight range with the least mean square error."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set the range from ``x``; earlier values do not count."""
        rows = x.detach().reshape(1, -1)
        low, high = least_square_range(rows, (self.quant_min, self.quant_max), symmetric=_is_symmetric(self))
        _set_range(self, low[0], high[0])
        return x


class MeanSquarePerChannelObserver(observer.PerChannelMinMaxObserver):  # type: ignore[misc]
    """Per-channel weight ranges with the least mean square error."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set the ranges from ``x``; earlier values do not count."""
        rows = x.detach().transpose(0, self.ch_axis).flatten(1)
        _set_range(self, *least_square_range(rows, (self.quant_min, self.quant_max), symmetric=_is_symmetric(self)))
        return x


def _is_symmetric(range_observer: Any) -> bool:
    return range_observer.qscheme in (torch.per_tensor_symmetric, torch.per_channel_symmetric)


def _set_range(range_observer: Any, low: torch.Tensor, high: torch.Tensor) -> None:
    range_observer.min_val.resize_(low.shape).copy_(low)
    range_observer.max_val.resize_(high.shape).copy_(high)


def group_length(row: int, group_size: int) -> int:
    """Return ``group_size``, or ``row`` if that is not a multiple of it."""
    return group_size if row % group_size == 0 else row


class GroupObserver(ObserverBase):  # type: ignore[misc]
    """Group-wise weight quantization: one scale per ``group_size`` values of an output channel.

    The graph holds the integers as ``[out * groups, group_size]`` with a scale per row, dequantized and then viewed in
    the weight's shape, which every exporter supports.
    """

    def __init__(
        self,
        *,
        dtype: torch.dtype,
        quant_min: int,
        quant_max: int,
        qscheme: torch.qscheme,
        group_size: int,
        least_square: bool,
        is_dynamic: bool = False,
    ) -> None:
        super().__init__(dtype=dtype, is_dynamic=is_dynamic)
        self.qscheme, self.symmetric = qscheme, qscheme == torch.per_channel_symmetric
        self.group_size, self.least_square = group_size, least_square
        self.levels = (quant_min, quant_max)
        self.shape: torch.Size | None = None
        self.rows = torch.empty(0)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Store the weight."""
        self.shape = input.shape
        self.rows = input.detach().reshape(-1, group_length(input[0].numel(), self.group_size))
        return input

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scale and zero point per group."""
        if self.least_square:
            low, high = least_square_range(self.rows, self.levels, symmetric=self.symmetric)
        else:
            low, high = self.rows.amin(1), self.rows.amax(1)
        return scale_and_zero(low, high, self.levels, symmetric=self.symmetric)

    def convert(self, model: GraphModule, observer_node: Node) -> None:
        """Replace the observed weight by integers and their dequantization."""
        if self.shape is None:
            raise RuntimeError(f"{observer_node} was converted before it observed a weight")
        scale, zero = self.calculate_qparams()
        integers = torch.round(rounded(self.rows, scale[:, None], zero[:, None], self.levels) / scale[:, None])
        values = {"integers": (integers + zero[:, None]).to(self.dtype), "scale": scale, "zero": zero.to(torch.int64)}
        with model.graph.inserting_before(observer_node):
            nodes = [_buffer(model, f"{observer_node.name}_{word}", value) for word, value in values.items()]
            flat = model.graph.call_function(
                torch.ops.quantized_decomposed.dequantize_per_channel.default, (*nodes, 0, *self.levels, self.dtype)
            )
            whole = model.graph.call_function(torch.ops.aten.view.default, (flat, list(self.shape)))
        observer_node.replace_all_uses_with(whole)
        model.graph.erase_node(observer_node)


def _buffer(model: GraphModule, name: str, value: torch.Tensor) -> Node:
    model.register_buffer(name, value)
    return model.graph.get_attr(name)


RANGES: dict[str, Any] = {
    "minmax": MinMaxRange,
    "histogram": HistogramRange,
    "percentile": PercentileRange,
    "mse": MeanSquareRange,
}
"""Activation observers by ``Quantize.observer``."""


class FakeRound(torch.autograd.Function):
    """Clamp to a range and round to its grid, with a straight-through gradient inside the range.

    Same values as ``torch.fake_quantize_per_tensor_affine``, whose CPU kernel is many times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, low: float, high: float) -> torch.Tensor:
        """Return ``x`` on the grid of ``scale`` between ``low`` and ``high``, which lie on it."""
        ctx.save_for_backward(x)
        ctx.range = (low, high)
        return x.clamp(low, high).mul_(1 / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Return the gradient, zero for clamped values."""
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.range), None, None, None


class FixedRangeFakeQuantize(FakeQuantize):  # type: ignore[misc]
    """Pass values through while observing; round them to the observed range after :meth:`freeze`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``, rounded if the range is frozen."""
        if self.observer_enabled[0] == 1:
            self.activation_post_process(x.detach())
            return x
        scale, zero = float(self.scale), int(self.zero_point)
        observer = self.activation_post_process
        low, high = ((bound - zero) * scale for bound in (observer.quant_min, observer.quant_max))
        # 8 bits of rounding on top of bfloat16's own 8 would move the grid
        rounded: torch.Tensor = FakeRound.apply(x.float(), scale, low, high)  # type: ignore[no-untyped-call]
        return rounded

    def freeze(self) -> None:
        """Set the range from the observed values, and round from now on."""
        scale, zero_point = self.calculate_qparams()
        self.scale.resize_(scale.shape).copy_(scale)
        self.zero_point.resize_(zero_point.shape).copy_(zero_point)
        self.disable_observer()


def freeze_ranges(module: nn.Module) -> None:
    """Call :meth:`FixedRangeFakeQuantize.freeze` on each of them in ``module``."""
    for child in module.modules():
        if isinstance(child, FixedRangeFakeQuantize):
            child.freeze()
