"""A torch module computed in 16 bits with the float module's inputs and outputs. Imports torch."""

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
    """The module under autocast: products in 16 bits, sums and norms in float32.

    A module cast as a whole would fail on float32 tensors of its own, and lose accuracy in its norms. Weights that only
    products use are stored in 16 bits, so that autocast does not cast them in every call.
    """

    def __init__(self, module: nn.Module, precision: str, device: str) -> None:
        super().__init__()
        self.module = module
        self._dtype, self._device = DTYPES[precision], device.partition(":")[0]
        _unfuse(module)
        _store(module, self._dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module; 16-bit outputs are converted to float32."""
        with torch.autocast(self._device, self._dtype, cache_enabled=False):
            output = self.module(*args, **kwargs)
        return pytree.tree_map(_widened, output)


def _widened(leaf: Any) -> Any:
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16) else leaf


def _unfuse(module: nn.Module) -> None:
    """Disable the fused kernel of encoder layers, which requires one dtype of all weights."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False


def _store(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights that only products use."""
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
