"""Layer reports of a quantized model."""

from __future__ import annotations

from typing import Any

import torch

from workbench.compress.layer_selection import holds_matrix, shown
from workbench.compress.quantize.annotate import Touch
from workbench.compress.variant import LayerReport


def report_layers(module: torch.nn.Module, touches: list[Touch]) -> tuple[LayerReport, ...]:
    """Report every layer that computes with a weight matrix, in the model's order."""
    found = {touch.name: touch for touch in touches}
    names: dict[torch.nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        names.setdefault(layer, []).append(name)
    weights = {layer: getattr(layer, "weight", None) for layer in names}  # read once: a parametrized one is made anew
    owners: dict[Any, list[torch.nn.Module]] = {}
    for layer, weight in weights.items():
        owners.setdefault(weight, []).append(layer)
    reports, told = [], set()
    for layer, own in names.items():
        weight = weights[layer]
        known = own if weight is None else [name for owner in owners[weight] for name in names[owner]]
        # a table is looked up: what the graph multiplies by its weight, under either name, is the other owner
        looked_up = isinstance(layer, torch.nn.Embedding) and len(owners[weight]) > 1
        mine = set() if looked_up else found.keys() & set(known)
        told |= mine
        if mine:
            touch = found[min(mine)]
            reports.append(LayerReport(shown(own[0]), type(layer).__name__, touch.touched, touch.reason))
        elif holds_matrix(layer):
            reports.append(LayerReport(shown(own[0]), type(layer).__name__, False, _why_untouched(layer)))
    reports += [LayerReport(t.name, "function", t.touched, t.reason) for t in touches if t.name not in told]
    return tuple(reports)


def _why_untouched(layer: torch.nn.Module) -> str:
    if isinstance(layer, torch.nn.Embedding):
        return "a table that is looked up, not multiplied: stays in float"
    if isinstance(layer, torch.nn.RNNBase):
        return "recurrent: one operator multiplies by its weights step by step, and rounds none of them"
    if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
        return "a transposed convolution: stays in float in every mode, since ONNX Runtime has no int8 kernel for it"
    return "not a convolution or Linear that the captured graph calls with its weight"
