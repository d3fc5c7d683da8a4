"""The one training loop: schedules, precision, early stop, and checkpoints that a killed training goes on from."""

from __future__ import annotations

from workbench.compress.training.checkpoint import Checkpoint
from workbench.compress.training.loop import BatchLoss, train
from workbench.compress.training.numerics import Forward, channels_last, set_layout
from workbench.compress.training.plan import Plan, Trained, is_normalised_by_layer, make_optimizer, rate_factor
from workbench.compress.training.watch import validation_quality

__all__ = [
    "BatchLoss",
    "Checkpoint",
    "Forward",
    "Plan",
    "Trained",
    "channels_last",
    "is_normalised_by_layer",
    "make_optimizer",
    "rate_factor",
    "set_layout",
    "train",
    "validation_quality",
]
