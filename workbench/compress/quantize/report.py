"""Layer reports of a quantized model."""

from __future__ import annotations

from typing import Any

import torch

from workbench.compress.layer_selection import display_name, holds_matrix
from workbench.compress.quantize.annotate import LayerDecision
from workbench.compress.variant import LayerReport


def report_layers(module: torch.nn.Module, decisions: list[LayerDecision]) -> tuple[LayerReport, ...]:
    """Return a report for each layer with a weight matrix, in the model's order."""
    by_name = {decision.name: decision for decision in decisions}
    names: dict[torch.nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        names.setdefault(layer, []).append(name)
    weights = {layer: getattr(layer, "weight", None) for layer in names}  # parametrized: new per read
    owners: dict[Any, list[torch.nn.Module]] = {}
    for layer, weight in weights.items():
        owners.setdefault(weight, []).append(layer)
    reports, reported = [], set()
    for layer, own in names.items():
        weight = weights[layer]
        aliases = own if weight is None else [name for owner in owners[weight] for name in names[owner]]
        # an embedding that shares its weight: the decision is that of the layer which multiplies by it
        looked_up = isinstance(layer, torch.nn.Embedding) and len(owners[weight]) > 1
        matches = set() if looked_up else by_name.keys() & set(aliases)
        reported |= matches
        if matches:
            decision = by_name[min(matches)]
            reports.append(LayerReport(display_name(own[0]), type(layer).__name__, decision.quantized, decision.reason))
        elif holds_matrix(layer):
            reports.append(LayerReport(display_name(own[0]), type(layer).__name__, False, _why_untouched(layer)))
    functions = [decision for decision in decisions if decision.name not in reported]
    return (*reports, *(LayerReport(d.name, "function", d.quantized, d.reason) for d in functions))


def _why_untouched(layer: torch.nn.Module) -> str:
    if isinstance(layer, torch.nn.Embedding):
        return "an embedding is looked up, not multiplied: stays in float"
    if isinstance(layer, torch.nn.RNNBase):
        return "recurrent: its operator has no quantized form"
    if isinstance(layer, torch.nn.modules.conv._ConvTransposeNd):
        return "a transposed convolution: ONNX Runtime has no int8 kernel for it"
    return "not called with its weight as a convolution or Linear in the captured graph"
