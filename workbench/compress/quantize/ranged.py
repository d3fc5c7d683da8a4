"""Simulated rounding whose range is measured first and then stays, while the weights learn to live with it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.compress.quantize.quiet import quiet_torchao

with quiet_torchao():
    from torchao.quantization.pt2e.fake_quantize import FakeQuantize


class RangedFakeQuantize(FakeQuantize):  # type: ignore[misc]
    """Pass values through while observing; round them with the measured range afterwards."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x``, rounded once :meth:`fix` was called."""
        if self.observer_enabled[0] == 1:
            self.activation_post_process(x.detach())
            return x
        rounded: torch.Tensor = super().forward(x)
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
