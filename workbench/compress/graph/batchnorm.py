"""Recompute the running statistics of BatchNorm exactly over a split."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from workbench.compress.model_ops import kept_modes, predict_with, removing
from workbench.core.progress import Progress, ProgressCallback
from workbench.tasks.split import Split

BatchNorm = nn.modules.batchnorm._BatchNorm


def norms_with_statistics(module: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch norms with running statistics, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, BatchNorm) and layer.running_mean is not None
    }


def reestimate(module: nn.Module, data: Split, *, batch_size: int, progress: ProgressCallback) -> frozenset[str]:
    """Set the running mean and variance of every BatchNorm to those over ``data``; return the names.

    One pass; the moments are over all samples, not a mean over batches. Meanwhile each norm uses the statistics of its
    batch, as in training (PreciseBN: Wu and Johnson 2021, Rethinking "Batch" in BatchNorm, arXiv 2105.07576). The
    samples are not augmented and dropout is off. Every submodule keeps its mode.
    """
    norms = norms_with_statistics(module)
    if not norms:
        return frozenset()
    moments = {name: _Moments() for name in norms}
    hooks = (layer.register_forward_pre_hook(moments[name].add) for name, layer in norms.items())
    counters = {name: layer.num_batches_tracked for name, layer in norms.items()}
    with kept_modes(module), removing(hooks):
        module.eval()
        try:
            for name, layer in norms.items():
                layer.training = True
                counter = counters[name]
                layer.num_batches_tracked = None if counter is None else counter.clone()
            _run_all(module, data, batch_size, progress)
        finally:
            for name, layer in norms.items():
                layer.num_batches_tracked = counters[name]
    reached = frozenset(name for name in norms if moments[name].count > 1)
    for name in reached:
        moments[name].write(norms[name])
    return reached


def _run_all(module: nn.Module, data: Split, batch_size: int, progress: ProgressCallback) -> None:
    # a norm needs at least two samples
    count = max(1, min(len(data) // 2, round(len(data) / batch_size)))
    parts = np.array_split(np.arange(len(data)), count)
    for index, rows in enumerate(parts):
        progress(Progress("recover", index, len(parts), "recomputing BatchNorm statistics"))
        predict_with(module, data.take(rows).inputs)


class _Moments:
    """Count, mean and sum of squared deviations per channel, in float64, joined batch by batch (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().double().movedim(1, -1).flatten(0, -2)
        count, mean = len(x), x.mean(0)
        squares = (x - mean).pow(2).sum(0)
        total, apart = self.count + count, mean - self.mean
        self.squares = self.squares + squares + apart.pow(2) * self.count * count / total
        self.mean = self.mean + apart * count / total
        self.count = total

    def write(self, layer: BatchNorm) -> None:
        # torch's running variance is unbiased
        for buffer, value in ((layer.running_mean, self.mean), (layer.running_var, self.squares / (self.count - 1))):
            if buffer is not None:
                buffer.copy_(value)
