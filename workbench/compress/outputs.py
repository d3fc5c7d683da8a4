"""Which layers give a model's own outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.tasks.trees import Tree, call_model, leaves


def answering_layers(module: nn.Module, example: Tree, kinds: tuple[type[nn.Module], ...]) -> frozenset[str]:
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
