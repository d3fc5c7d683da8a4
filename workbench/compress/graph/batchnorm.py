"""Running statistics of BatchNorm computed anew from the training split, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.split import Split
from workbench.tasks.trees import call_model

BatchNorm = nn.modules.batchnorm._BatchNorm


def norms_with_statistics(module: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch norms that keep running statistics, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, BatchNorm) and layer.running_mean is not None
    }


def reestimate(module: nn.Module, data: Split, *, batch_size: int, progress: ProgressCallback) -> frozenset[str]:
    """Set every BatchNorm's running mean and variance to those of what it sees over ``data``; return their names.

    One pass: mean and variance are those of all samples together, not a mean over batches. While it runs, a norm
    uses the statistics of its batch, as in training, so that the norms after it see what they would see then
    (PreciseBN: Wu and Johnson 2021, Rethinking "Batch" in BatchNorm, arXiv 2105.07576). The samples are not
    augmented, dropout is off, batches are of nearly equal size. Every part keeps the mode that it had.
    """
    norms = norms_with_statistics(module)
    if not norms:
        return frozenset()
    moments = {name: _Moments() for name in norms}
    hooks = [layer.register_forward_pre_hook(moments[name].see) for name, layer in norms.items()]
    modes = [(part, part.training) for part in module.modules()]
    counted = {name: layer.num_batches_tracked for name, layer in norms.items()}
    module.eval()
    try:
        for name, layer in norms.items():
            layer.training = True
            before = counted[name]
            layer.num_batches_tracked = None if before is None else before.clone()
        with torch.no_grad():
            _run_all(module, data, batch_size, progress)
    finally:
        for part, training in modes:
            part.training = training
        for hook in hooks:
            hook.remove()
        for name, layer in norms.items():
            layer.num_batches_tracked = counted[name]
    seen = {name for name in norms if moments[name].count > 1}
    for name in seen:
        moments[name].write(norms[name])
    return frozenset(seen)


def _run_all(module: nn.Module, data: Split, batch_size: int, progress: ProgressCallback) -> None:
    # a norm cannot run on a single sample, so that no batch is smaller than two
    count = max(1, min(len(data) // 2, round(len(data) / batch_size)))
    parts = np.array_split(np.arange(len(data)), count)
    for index, rows in enumerate(parts):
        progress(Progress("recover", index, len(parts), "computing the statistics of BatchNorm anew"))
        call_model(module, data.take(rows).inputs)


class _Moments:
    """Count, mean and sum of squared deviations per channel, in float64, joined batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def see(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().double().movedim(1, -1).flatten(0, -2)
        count, mean = len(x), x.mean(0)
        squares = (x - mean).pow(2).sum(0)
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.pow(2) * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = total

    def write(self, layer: BatchNorm) -> None:
        # torch's running variance is the unbiased one
        for buffer, value in ((layer.running_mean, self.mean), (layer.running_var, self.squares / (self.count - 1))):
            if buffer is not None:
                buffer.copy_(value)
