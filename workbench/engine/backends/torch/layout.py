"""How 4-d tensors of a torch module lie in memory. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.export.io import IOSpec

NOTHING = "memory_format='channels_last': the model has no weight or input with four dimensions, so it does nothing"


class Layout:
    """Lays out weights once and inputs in every call; ``notes`` say where there is nothing to lay out.

    Convolutions that find the channels last (NHWC) need not convert what they are given before they compute. Other
    tensors than 4-d ones are left alone. Outputs go back to the caller as contiguous arrays.
    """

    def __init__(self, module: nn.Module, io: IOSpec, memory_format: str) -> None:
        self.notes: tuple[str, ...] = ()
        self._last = memory_format == "channels_last"
        if self._last:
            weights = [t for t in (*module.parameters(), *module.buffers()) if t.dim() == 4]
            for weight in weights:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            if not weights and all(len(spec.shape) != 3 for spec in io.inputs):
                self._last, self.notes = False, (NOTHING,)

    def __call__(self, tensors: list[Any]) -> list[Any]:
        """Return the inputs as the module takes them."""
        return [_channels_last(tensor) for tensor in tensors] if self._last else tensors


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
