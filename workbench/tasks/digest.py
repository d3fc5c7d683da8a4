"""Hash tensors: equal values give equal digests in every process."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a CPU tensor in row-major order, without a copy if it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def weights_digest(module: nn.Module) -> str:
    """Return the sha256 (hex) over names, dtypes, shapes and bytes of a module's parameters and buffers."""
    total = hashlib.sha256()
    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):
            total.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
            total.update(raw_bytes(value.cpu()))
    return total.hexdigest()
