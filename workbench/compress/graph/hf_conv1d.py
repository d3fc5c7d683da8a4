"""Layers of other packages that are a Linear in other clothes, turned into one that every step knows."""

from __future__ import annotations

from torch import nn

# Named, not imported: transformers is no dependency, and takes seconds to import.
_TRANSPOSED = ("transformers.pytorch_utils", "Conv1D")


def replace_hf_conv1d(module: nn.Module) -> nn.Module:
    """Put an ``nn.Linear`` of equal outputs in the place of every ``Conv1D`` of transformers (GPT-2), in place.

    It keeps its weight as ``[in, out]``, where a Linear has ``[out, in]``; otherwise they are the same. A layer whose
    weight is shared with another one stays as it is.
    """
    counts: dict[int, int] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    replaced: dict[nn.Module, nn.Linear] = {}
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        kind = type(layer)
        if (kind.__module__, kind.__name__) != _TRANSPOSED or counts[id(layer.weight)] > 1:
            continue
        if layer not in replaced:
            replaced[layer] = _linear(layer)
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, replaced[layer])
    return module


def _linear(layer: nn.Module) -> nn.Linear:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear.train(layer.training)
