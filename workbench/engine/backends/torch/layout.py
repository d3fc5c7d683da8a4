"""Memory format of 4-d tensors of a torch module. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.export.io import IOSpec

NOTHING = "memory_format='channels_last' has no effect: the model has no weight or input with four dimensions"


class Layout:
    """Convert weights once and inputs in every call; ``notes`` if there is nothing to convert.

    Convolutions run on channels-last (NHWC) tensors without converting them. Only 4-d tensors are converted; outputs
    are returned as contiguous arrays.
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
        """Return the inputs in the memory format."""
        return [_channels_last(tensor) for tensor in tensors] if self._last else tensors


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
