"""Simulated rounding whose range is measured first and then stays, while the weights learn to live with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.compress.graph.torchao_import import quiet_torchao

with quiet_torchao():
    from torchao.quantization.pt2e.fake_quantize import FakeQuantize


class Rounded(torch.autograd.Function):
    """Clamp to a range and round to its grid; gradients pass where nothing was clamped.

    The same values as ``torch.fake_quantize_per_tensor_affine``, whose CPU kernel takes many times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float, low: float, high: float) -> torch.Tensor:
        """Return ``x`` on the grid of ``scale`` between ``low`` and ``high``, which lie on it."""
        ctx.save_for_backward(x)
        ctx.range = (low, high)
        return x.clamp(low, high).mul_(1 / scale).round_().mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Return the gradient, zero where ``x`` was clamped."""
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradients[0], x, *ctx.range), None, None, None


class RangedFakeQuantize(FakeQuantize):  # type: ignore[misc]
    """Pass values through while observing; round them with the measured range afterwards."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``, rounded once :meth:`fix` was called."""
        if self.observer_enabled[0] == 1:
            self.activation_post_process(x.detach())
            return x
        scale, zero = float(self.scale), int(self.zero_point)
        observer = self.activation_post_process
        low, high = ((bound - zero) * scale for bound in (observer.quant_min, observer.quant_max))
        # 8 bits of rounding on top of bfloat16's own 8 would move the grid
        rounded: torch.Tensor = Rounded.apply(x.float(), scale, low, high)  # type: ignore[no-untyped-call]
        return rounded

    def fix(self) -> None:
        """Take the range from what was observed, and round from now on."""
        scale, zero_point = self.calculate_qparams()
        self.scale.resize_(scale.shape).copy_(scale)
        self.zero_point.resize_(zero_point.shape).copy_(zero_point)
        self.disable_observer()


def fix_ranges(module: nn.Module) -> None:
    """Call :meth:`RangedFakeQuantize.fix` on every rounding of ``module``, each once."""
    seen: set[Any] = set()
    for child in module.modules():
        if isinstance(child, RangedFakeQuantize) and child not in seen:
            seen.add(child)
            child.fix()
