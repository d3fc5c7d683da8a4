"""The tasks that ship with the workbench: hard digits, for a residual CNN and for a small vision transformer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from workbench.tasks.data import checked_file, data_dir
from workbench.tasks.models import DigitsResNet, DigitsViT
from workbench.tasks.task import Task

SHA256 = {
    "digits.npz": "f957f57f158776273c0850b38843a9bc4a33d769875de5973b543cc8b90a85a0",
    "digits_resnet.safetensors": "f9278e4e2302f3e255d1c264644f0783b1325d9367bf495e20d06f1ec720d177",
    "digits_vit.safetensors": "",
}
SIDE = 32
MEAN, STD = 0.102, 0.185


def digits() -> Task:
    """Return the task of reading distorted, noisy digits with a residual CNN of 0.32M parameters.

    Inputs ``image``: float32 ``[n, 1, 32, 32]``; targets: int64 ``[n]`` of 0 to 9; metric: accuracy. 3,005 of the
    10,000 digits are for evaluation. Origin and licence: ``data/README.md``.

    Raises
    ------
    TaskError
        If a shipped file is missing or its sha256 is wrong.

    Examples
    --------
    >>> task = digits()
    >>> task.evaluate(task.model())
    0.95
    """
    return _task("digits", _build_resnet)


def digits_vit() -> Task:
    """Return the task of :func:`digits` for a vision transformer of 0.4M parameters."""
    return _task("digits_vit", _build_vit)


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the share of rows whose largest logit ``[n, classes]`` is the target ``[n]``."""
    return float((outputs.argmax(1) == targets).double().mean())


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale and shift each image ``[n, 1, h, w]`` a little: 0.15 rad, 10 %, 2 pixels at most.

    The nearest pixel is taken, because interpolation would smooth the noise away that the digits carry.
    """
    turn, scale, x, y = (torch.rand(4, len(images), generator=generator) * 2 - 1).unbind(0)
    cos, sin = torch.cos(0.15 * turn) * (1 + 0.1 * scale), torch.sin(0.15 * turn) * (1 + 0.1 * scale)
    shift = 2 * 2 / images.shape[-1]
    matrix = torch.stack([cos, -sin, shift * x, sin, cos, shift * y], dim=1).reshape(-1, 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="nearest", padding_mode="reflection", align_corners=False)


def _task(name: str, build: Callable[[], nn.Module]) -> Task:
    inputs, targets, is_evaluation = digits_data()
    return Task(
        name=name,
        build=build,
        train=(inputs[~is_evaluation], targets[~is_evaluation]),
        evaluation=(inputs[is_evaluation], targets[is_evaluation]),
        metric=accuracy,
        loss=functional.cross_entropy,
        augment=jitter,
        reference=name,
    )


@functools.lru_cache(maxsize=1)
def digits_data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return normalised images ``[n, 1, 32, 32]``, labels ``[n]`` and which samples are for evaluation ``[n]``."""
    path = checked_file(data_dir() / "digits.npz", SHA256["digits.npz"])
    with np.load(path, allow_pickle=False) as data:
        packed, labels, evaluation = data["packed"], data["labels"], data["evaluation"]
    levels = np.empty((len(packed), math.prod((SIDE, SIDE))), dtype=np.float32)
    levels[:, 0::2], levels[:, 1::2] = packed >> 4, packed & 15
    images = torch.from_numpy((levels / 15 - MEAN) / STD).reshape(-1, 1, SIDE, SIDE)
    is_evaluation = torch.zeros(len(labels), dtype=torch.bool)
    is_evaluation[torch.from_numpy(evaluation.astype(np.int64))] = True
    return images, torch.from_numpy(labels.astype(np.int64)), is_evaluation


def _build_resnet() -> nn.Module:
    return _trained(DigitsResNet(), "digits_resnet.safetensors")


def _build_vit() -> nn.Module:
    return _trained(DigitsViT(), "digits_vit.safetensors")


def _trained(model: nn.Module, name: str) -> nn.Module:
    model.load_state_dict(load_file(checked_file(data_dir() / name, SHA256[name])))
    return model.eval()
