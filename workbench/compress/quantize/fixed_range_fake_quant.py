"""Fake quantization for QAT with a fixed range: calibrated first, then frozen while the weights are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.core.quiet import quiet_torchao

with quiet_torchao():
    from torchao.quantization.pt2e.fake_quantize import FakeQuantize


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
