"""A torch module computed in 16 bits that takes and gives what the float module does. Imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_PRODUCTS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class HalfPrecisionModule(nn.Module):
    """The module under autocast: products in 16 bits, and what loses by it (sums, norms) in float32.

    A module cast as a whole would fail as soon as its code makes a float32 tensor of its own, and lose accuracy in its
    norms. What autocast costs, casting every weight in every call, is saved by storing the weights of layers that do
    nothing but products in 16 bits once.
    """

    def __init__(self, module: nn.Module, precision: str, device: str) -> None:
        super().__init__()
        self.module = module
        self._dtype, self._device = DTYPES[precision], device.partition(":")[0]
        _unfuse(module)
        _store(module, self._dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; 16-bit outputs come back in float32."""
        with torch.autocast(self._device, self._dtype, cache_enabled=False):
            output = self.module(*args, **kwargs)
        return pytree.tree_map(_widened, output)


def _widened(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf


def _unfuse(module: nn.Module) -> None:
    """Keep encoder layers off their one fused kernel: it computes in the weights' dtype, and must find one in all."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False


def _store(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that only products use; one shared with another kind of layer is left alone."""
    others = {
        id(weight)
        for part in module.modules()
        if type(part) not in _PRODUCTS
        for weight in part.parameters(recurse=False)
    }
    for part in module.modules():
        if type(part) in _PRODUCTS:
            for weight in part.parameters(recurse=False):
                if id(weight) not in others and weight.dtype == torch.float32:
                    weight.data = weight.data.to(dtype)
