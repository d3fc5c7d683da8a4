"""Replace transformers' ``Conv1D`` by an equivalent ``nn.Linear``."""

from __future__ import annotations

from collections import Counter

from torch import nn

_CONV1D = ("transformers.pytorch_utils", "Conv1D")  # by name, because the import of transformers takes seconds


def replace_hf_conv1d(module: nn.Module) -> nn.Module:
    """Replace every ``Conv1D`` of transformers (GPT-2) by an ``nn.Linear`` with equal outputs, in place.

    Its weight is ``[in, out]`` instead of ``[out, in]``. A layer with a tied weight stays as it is.
    """
    owners = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    replaced: dict[nn.Module, nn.Linear] = {}
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        kind = type(layer)
        if (kind.__module__, kind.__name__) != _CONV1D or owners[id(layer.weight)] > 1:
            continue
        if layer not in replaced:
            replaced[layer] = _linear(layer)
        module.set_submodule(path, replaced[layer])
    return module


def _linear(layer: nn.Module) -> nn.Linear:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    linear = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous(), requires_grad=weight.requires_grad)
    linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear.train(layer.training)
