"""The task of the compression benchmark: the CIFAR ResNet-20 (He et al. 2015) on a folder with CIFAR-10 images.

    workbench report --task benchmarks/cifar.py:cifar10      with the folder's path in CIFAR_DATA

The folder holds ``cifar10.py`` (``load("train")`` and ``load("test")`` give images uint8 [n, 32, 32, 3] and labels)
and ``resnet20_cifar10.safetensors``. Nothing of it ships with the workbench.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

from workbench.tasks import Task
from workbench.tasks.builtin import accuracy

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def folder() -> Path:
    """Return the data folder: what CIFAR_DATA says."""
    return Path(os.environ.get("CIFAR_DATA", "../shared/data"))


class Block(nn.Module):
    """Two convolutions and a shortcut without weights: every second pixel, new channels filled with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return images ``[n, outputs, h / stride, w / stride]``."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """Three stages of three blocks, 16 to 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (inputs, outputs) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [Block(inputs, outputs, 1 if stage == 1 else 2), *(Block(outputs, outputs, 1) for _ in range(2))]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits ``[n, 10]`` of images ``[n, 3, 32, 32]``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


@functools.cache
def _read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    spec = importlib.util.spec_from_file_location("cifar10_reader", folder() / "cifar10.py")
    if spec is None or spec.loader is None or not (folder() / "cifar10.py").exists():
        raise FileNotFoundError(f"{folder() / 'cifar10.py'} is missing: set CIFAR_DATA to the folder with the data.")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    pixels, labels = reader.load(split)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images - mean) / std).contiguous(), torch.from_numpy(labels)


def flip_and_shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images ``[n, 3, 32, 32]`` mirrored at random and shifted by up to four pixels each way."""
    count = len(images)
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    padded = functional.pad(images, (4, 4, 4, 4)).permute(0, 2, 3, 1)
    down, right = torch.randint(0, 9, (2, count, 1), generator=generator) + torch.arange(32)
    moved = padded[torch.arange(count)[:, None, None], down[:, :, None], right[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def build() -> nn.Module:
    """Return the trained network."""
    model = ResNet20()
    model.load_state_dict(safetensors.torch.load_file(folder() / "resnet20_cifar10.safetensors"))
    return model.eval()


def cifar10() -> Task:
    """Return the task: 30,000 images to train on (validation and calibration taken out), 2,000 to judge by."""
    return Task(
        name="cifar10-resnet20",
        build=build,
        train=_read("train"),
        evaluation=_read("test"),
        metric=accuracy,
        loss=functional.cross_entropy,
        augment=flip_and_shift,
    )


def cifar10_held_out() -> Task:
    """Return the task of the search benchmark: validation images that the float model was not trained on.

    It has seen the whole training set, and has 95.5 % on a tenth of it. A variant that learns without that tenth stands
    there 1.5 points lower although it answers new images as well, so no search could accept one. Therefore the 2,000
    test images are divided at random: a half to choose by, and a half for the final judgement. Calibration images
    are 512 of the training images, so that there is something to draw from.
    """
    images, labels = _read("train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    known, rest = order[:512], order[512:]
    others, answers = _read("test")
    halves = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).chunk(2)
    return Task(
        name="cifar10-resnet20-held-out",
        build=build,
        train=(images[rest], labels[rest]),
        calibration=(images[known], labels[known]),
        validation=(others[halves[0]], answers[halves[0]]),
        evaluation=(others[halves[1]], answers[halves[1]]),
        metric=accuracy,
        loss=functional.cross_entropy,
        augment=flip_and_shift,
    )
