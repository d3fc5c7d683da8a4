"""Architectures that nobody here wrote, small and with random weights, and a task around each.

They come from pytorchcv (imported by submodule, installed with ``pip install --no-deps pytorchcv``, because it asks
for torchvision) and from transformers (made from a config, nothing is downloaded). Each brings something that is hard
to compress: residual sums, depthwise and grouped convolutions, concatenations, gates, skips, attention, recurrence,
reshapes of a fixed size, several inputs and outputs.
"""

from __future__ import annotations

from benchmarks.zoo.cnns import CNNS
from benchmarks.zoo.others import OTHERS
from benchmarks.zoo.task import Architecture, task_of

__all__ = ["ARCHITECTURES", "Architecture", "task_of"]

ARCHITECTURES: tuple[Architecture, ...] = CNNS + OTHERS
