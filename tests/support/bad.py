"""Tasks that are wrong in one way each; what must be said about them stands in tests/test_bad_input.py."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.tiny import accuracy, build, images
from workbench.tasks.task import Task


def _task(**changes: object) -> Task:
    parts = {
        "name": "bad",
        "build": build,
        "train": images(256, 2),
        "evaluation": images(64, 3),
        "metric": accuracy,
        "loss": F.cross_entropy,
    }
    return Task(**{**parts, **changes})


def wrong_shape() -> Task:
    """Images with three channels for a net that takes one."""
    inputs, labels = images(256, 2)
    return _task(train=(inputs.repeat(1, 3, 1, 1), labels))


def short_labels() -> Task:
    """Fewer labels than images."""
    inputs, labels = images(256, 2)
    return _task(train=(inputs, labels[:200]))


def nan_weights() -> Task:
    """A net whose head has lost its mind."""

    def broken() -> nn.Module:
        model = build()
        with torch.no_grad():
            model.get_parameter("head.weight")[0, 0] = float("nan")
        return model

    return _task(build=broken)


class DataDependent(nn.Module):
    """Python decides by the values, so that no graph stands for it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits, mirrored by the mood of the first pixel."""
        if float(image.sum().tanh()) > 0:
            return self.net(image)
        return self.net(image.flip(3)).flip(1)


def unexportable() -> Task:
    """A model that torch runs and that no other engine can take."""
    return _task(name="unexportable", build=DataDependent)
