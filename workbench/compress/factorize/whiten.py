"""What the calibration data makes of the layers: the second moments of their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from workbench.compress.factorize.candidates import Convolution, Spot
from workbench.compress.handlers import Work
from workbench.core.progress import Progress
from workbench.tasks.trees import call_model

_BATCH = 32


def output_moments(spots: Sequence[Spot], work: Work) -> dict[str, torch.Tensor]:
    """Return ``Y Y^T [groups, out, out]`` of every layer's outputs without bias, over the calibration samples.

    A Linear with fewer inputs than outputs has the moments of its inputs taken, ``X X^T``, and brought to the same
    form: the smaller of the two is kept.
    """
    sums = {spot.name: _zeros(spot) for spot in spots}
    hooks = [spot.layer.register_forward_hook(_adder(sums[spot.name], spot)) for spot in spots]
    batches = list(work.task.calibration.batches(_BATCH))
    try:
        for index, (inputs, _) in enumerate(batches):
            work.progress(Progress("factorize", index, len(batches), "reading the calibration data"))
            # Fused attention kernels, which call no layer, are off while gradients are on.
            with torch.enable_grad():
                call_model(work.module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {spot.name: _as_outputs(sums[spot.name], spot) for spot in spots}


def _takes_inputs(spot: Spot) -> bool:
    _, out, into = spot.weight.flatten(2).shape
    return not isinstance(spot.layer, Convolution | nn.Embedding) and into < out


def _zeros(spot: Spot) -> torch.Tensor:
    groups, out, into = spot.weight.flatten(2).shape
    size = into if _takes_inputs(spot) else out
    return torch.zeros(groups, size, size, dtype=torch.float64)


def _as_outputs(moments: torch.Tensor, spot: Spot) -> torch.Tensor:
    weight = spot.weight.flatten(2)
    return weight @ moments @ weight.mT if _takes_inputs(spot) else moments


def _adder(total: torch.Tensor, spot: Spot) -> Any:
    groups, from_inputs, convolution = spot.groups, _takes_inputs(spot), isinstance(spot.layer, Convolution)
    bias: Any = getattr(spot.layer, "bias", None)

    def add(_layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        found = (inputs[0] if from_inputs else output).detach().double()
        if convolution:
            channels_at = -len(spot.layer.kernel_size) - 1  # type: ignore[arg-type]
            found = found.movedim(channels_at, -1)
        found = found.flatten(0, -2)
        if bias is not None and not from_inputs:
            found = found - bias.detach().double()
        parts = found.reshape(len(found), groups, -1).transpose(0, 1)
        total.add_(parts.mT @ parts)

    return add
