"""A model's own outputs: which layers give them, and how far others are from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from workbench.tasks.trees import Tree, call_model, leaves


def output_layers(module: nn.Module, example: Tree, kinds: tuple[type[nn.Module], ...]) -> frozenset[str]:
    """Return the names of the layers of ``kinds`` that make an output of the whole model, or what it is a view of."""
    made: dict[str, list[torch.Tensor]] = {}  # held, so that no other tensor takes the place of one in memory

    def hook(name: str) -> Any:
        def note(_: nn.Module, given: Any, out: Tree) -> None:
            known = {_place(tensor) for tensor in leaves(given) if torch.is_tensor(tensor)}
            made.setdefault(name, []).extend(tensor for tensor in leaves(out) if _place(tensor) not in known)

        return note

    hooks = [
        layer.register_forward_hook(hook(name)) for name, layer in module.named_modules() if isinstance(layer, kinds)
    ]
    try:
        with torch.no_grad():
            outputs = leaves(call_model(module, example))
    finally:
        for handle in hooks:
            handle.remove()
    places = {_place(output) for output in outputs}
    return frozenset(name for name, tensors in made.items() if any(_place(tensor) in places for tensor in tensors))


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def relative_squared_error(wanted: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """Return the share of the error in the energy of the outputs: the mean over the floating ones, each by its own.

    A large output beside a small one would hide what the small one loses, if their energies were added up.
    """
    pairs = [(a.double(), b.double()) for a, b in zip(wanted, got, strict=True) if a.is_floating_point()]
    shares = [float((a - b).square().sum()) / max(float(a.square().sum()), 1e-300) for a, b in pairs]
    return sum(shares) / max(1, len(shares))
