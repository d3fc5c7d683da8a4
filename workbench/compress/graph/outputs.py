"""Layers that make a model's outputs, and the error of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from workbench.compress.model_ops import predict_with, removing
from workbench.tasks.trees import Tree, leaves


def output_layers(module: nn.Module, example: Tree, kinds: tuple[type[nn.Module], ...]) -> frozenset[str]:
    """Return the names of the layers of ``kinds`` whose output is, or is viewed as, an output of the model."""
    made: dict[str, list[torch.Tensor]] = {}  # kept alive, so that no memory is reused

    def recorder(name: str) -> Any:
        def record(_: nn.Module, inputs: Any, output: Tree) -> None:
            places = {_place(tensor) for tensor in leaves(inputs) if torch.is_tensor(tensor)}
            made.setdefault(name, []).extend(tensor for tensor in leaves(output) if _place(tensor) not in places)

        return record

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
    with removing(layer.register_forward_hook(recorder(name)) for name, layer in layers):
        outputs = {_place(output) for output in leaves(predict_with(module, example))}
    return frozenset(name for name, tensors in made.items() if any(_place(tensor) in outputs for tensor in tensors))


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def relative_squared_error(expected: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    """Return the energy of the error over that of the expected outputs, averaged over the floating ones.

    Each output is normalized by itself, so that a large output does not hide the error of a small one.
    """
    pairs = [(a.double(), b.double()) for a, b in zip(expected, outputs, strict=True) if a.is_floating_point()]
    shares = [float((a - b).square().sum()) / max(float(a.square().sum()), 1e-300) for a, b in pairs]
    return sum(shares) / max(1, len(shares))
