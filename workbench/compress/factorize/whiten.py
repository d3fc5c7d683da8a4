"""Second moments of layer outputs on the calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from workbench.compress.factorize.candidates import CandidateLayer, Convolution
from workbench.compress.handlers import Work
from workbench.core.progress import Progress
from workbench.tasks.trees import call_model

_BATCH = 32


def output_moments(candidates: Sequence[CandidateLayer], work: Work) -> dict[str, torch.Tensor]:
    """Return ``Y Y^T [groups, out, out]`` of each layer's outputs without bias, over the calibration samples.

    For a Linear with fewer inputs than outputs it is computed from ``X X^T``, which is smaller.
    """
    sums = {candidate.name: _zeros(candidate) for candidate in candidates}
    hooks = [candidate.layer.register_forward_hook(_adder(sums[candidate.name], candidate)) for candidate in candidates]
    batches = list(work.task.calibration.batches(_BATCH))
    try:
        for index, (inputs, _) in enumerate(batches):
            work.progress(Progress("factorize", index, len(batches), "running the calibration data"))
            with torch.enable_grad():  # fused attention kernels call no layer
                call_model(work.module, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {candidate.name: _as_outputs(sums[candidate.name], candidate) for candidate in candidates}


def _takes_inputs(candidate: CandidateLayer) -> bool:
    _, out, into = candidate.weight.flatten(2).shape
    return not isinstance(candidate.layer, Convolution | nn.Embedding) and into < out


def _zeros(candidate: CandidateLayer) -> torch.Tensor:
    groups, out, into = candidate.weight.flatten(2).shape
    size = into if _takes_inputs(candidate) else out
    return torch.zeros(groups, size, size, dtype=torch.float64)


def _as_outputs(moments: torch.Tensor, candidate: CandidateLayer) -> torch.Tensor:
    weight = candidate.weight.flatten(2)
    return weight @ moments @ weight.mT if _takes_inputs(candidate) else moments


def _adder(total: torch.Tensor, candidate: CandidateLayer) -> Any:
    groups, from_inputs = candidate.groups, _takes_inputs(candidate)
    bias: Any = getattr(candidate.layer, "bias", None)

    def add(_layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        values = (inputs[0] if from_inputs else output).detach().double()
        if isinstance(candidate.layer, Convolution):
            values = values.movedim(-len(candidate.layer.kernel_size) - 1, -1)
        values = values.flatten(0, -2)
        if bias is not None and not from_inputs:
            values = values - bias.detach().double()
        parts = values.reshape(len(values), groups, -1).transpose(0, 1)
        total.add_(parts.mT @ parts)

    return add
