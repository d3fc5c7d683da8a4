"""Room for biases in 32-bit integers: a bias is held in steps of its input's scale times its weight's."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from workbench.compress.graph.interpreter import stored
from workbench.compress.graph.operators import WEIGHTED

_MOST = 2.0**30
"""Steps that a bias may have: half of what int32 holds, since bias correction may still move it."""
_SHRINK = 16.0


def make_room(prepared: GraphModule) -> None:
    """Widen the range of weights where a bias would overflow int32, as in channels whose weights are nearly zero.

    A weight's scale becomes at least ``|bias| / (2^30 * input scale)``. What that rounds away of the weights is below
    2^-15 of the bias.
    """
    for node in prepared.graph.nodes:
        if node.op != "call_function" or node.target not in WEIGHTED or len(node.args) < 3:
            continue
        bias, weight, source = stored(prepared, node.args[2]), _observer(prepared, node.args[1]), node.args[0]
        while isinstance(source, Node) and source.op == "call_function" and source.args:
            source = source.args[0]  # data movement behind what was rounded
        given = _observer(prepared, source)
        if bias is None or weight is None or given is None or given is weight:
            continue
        step = _least_scale(given)
        if step is not None:
            _widen(weight, bias.detach().abs() / (_MOST * step))


def _observer(prepared: GraphModule, node: Any) -> Any:
    if not isinstance(node, Node) or node.op != "call_module":
        return None
    module = prepared.get_submodule(str(node.target))
    found = getattr(module, "activation_post_process", module)
    return found if hasattr(found, "max_val") and hasattr(found, "calculate_qparams") else None


def _least_scale(observer: Any) -> float | None:
    """Return a bound below the scale of an input: a search for the best range may take a part of what was seen."""
    width = float((observer.max_val.clamp(min=0.0) - observer.min_val.clamp(max=0.0)).max())
    levels = float(observer.quant_max - observer.quant_min)
    return width / levels / _SHRINK if 0.0 < width < float("inf") else None


def _widen(observer: Any, least: torch.Tensor) -> None:
    """Raise the largest value of an observer until its scales are at least ``least``, [channels]."""
    scale = observer.calculate_qparams()[0]
    least = least.to(scale.dtype) if scale.numel() == least.numel() else least.max().expand_as(scale).to(scale.dtype)
    short = least > scale
    if not bool(short.any()):
        return
    levels = float(observer.quant_max - observer.quant_min)
    symmetric = observer.qscheme in (torch.per_channel_symmetric, torch.per_tensor_symmetric)
    low = torch.zeros_like(observer.max_val) if symmetric else observer.min_val.clamp(max=0.0)
    wide = low + least.reshape(observer.max_val.shape) * (levels / 2 if symmetric else levels)
    short = short.reshape(observer.max_val.shape)
    observer.max_val.copy_(torch.where(short, torch.maximum(observer.max_val, wide), observer.max_val))
