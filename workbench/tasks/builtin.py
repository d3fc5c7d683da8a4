"""The shipped tasks on distorted digits: a residual CNN and a small vision transformer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from workbench.core.errors import TaskError
from workbench.core.files import sha256_file
from workbench.tasks.models import DigitsResNet, DigitsViT
from workbench.tasks.task import Task

SHA256 = {
    "digits.npz": "c4a02c44e3318eabbfc30abb7daa2919f5701d380379b989e6943c27ef7f5789",
    "digits_resnet.safetensors": "5ab8f277ca5f1adc3e9b6631a3953dd76fc6914aa7316a5994cf4bf6a51a83f7",
    "digits_vit.safetensors": "20566acddc715c248e7944d1e19ecb712c892e9ea464cbdd0aa58bc033ad8249",
}
SIDE = 32
MEAN, STD = 0.102, 0.185
_RESTORE = "Restore it from git. If you rebuilt it on purpose, update its sha256 in workbench/tasks."


def digits() -> Task:
    """Return the task of reading distorted, noisy digits with a residual CNN of 0.32M parameters (94.3 %).

    Inputs ``image``: float32 ``[n, 1, 32, 32]``; targets: int64 ``[n]`` of 0 to 9; metric: accuracy. 3,005 of the
    10,000 digits are for evaluation. Origin and licence: ``data/README.md``.

    Raises
    ------
    TaskError
        If a shipped file is missing or has another sha256.

    Examples
    --------
    >>> task = digits()
    >>> task.evaluate(task.model())
    0.943...
    """
    return _task("digits", functools.partial(_trained, DigitsResNet, "digits_resnet.safetensors"))


def digits_vit() -> Task:
    """Return the task of :func:`digits` for a vision transformer of 0.4M parameters (91.4 %)."""
    return _task("digits_vit", functools.partial(_trained, DigitsViT, "digits_vit.safetensors"))


def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the share of rows whose largest logit ``[n, classes]`` is the target ``[n]``."""
    return float((outputs.argmax(1) == targets).double().mean())


def jitter(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, scale, shear and shift each image ``[n, 1, h, w]``: 0.35 rad, 20 %, 0.2 and 3 pixels at most.

    Nearest-neighbor sampling keeps the noise, which interpolation would smooth.
    """
    turn, scale, shear, x, y = (torch.rand(5, len(images), generator=generator) * 2 - 1).unbind(0)
    cos, sin = torch.cos(0.35 * turn) * (1 + 0.2 * scale), torch.sin(0.35 * turn) * (1 + 0.2 * scale)
    shift = 3 * 2 / images.shape[-1]
    matrix = torch.stack([cos, 0.2 * shear * cos - sin, shift * x, sin, 0.2 * shear * sin + cos, shift * y], dim=1)
    grid = functional.affine_grid(matrix.reshape(-1, 2, 3), list(images.shape), align_corners=False)
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
    """Return normalized images ``[n, 1, 32, 32]``, labels ``[n]``, and a mask of the evaluation samples ``[n]``."""
    path = verify_file(data_dir() / "digits.npz", SHA256["digits.npz"])
    with np.load(path, allow_pickle=False) as data:
        packed, labels, evaluation = data["packed"], data["labels"], data["evaluation"]
    levels = np.empty((len(packed), SIDE * SIDE), dtype=np.float32)
    levels[:, 0::2], levels[:, 1::2] = packed >> 4, packed & 15
    images = torch.from_numpy((levels / 15 - MEAN) / STD).reshape(-1, 1, SIDE, SIDE)
    is_evaluation = torch.zeros(len(labels), dtype=torch.bool)
    is_evaluation[torch.from_numpy(evaluation.astype(np.int64))] = True
    return images, torch.from_numpy(labels.astype(np.int64)), is_evaluation


def _trained(kind: Callable[[], nn.Module], name: str) -> nn.Module:
    model = kind()
    model.load_state_dict(load_file(verify_file(data_dir() / name, SHA256[name])))
    return model.eval()


def data_dir() -> Path:
    """Return the data folder: in the installed package, or ``data/`` of a checkout; TaskError if both are missing."""
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_data", package.parent / "data")
    for folder in candidates:
        if (folder / "digits.npz").is_file():
            return folder
    folders = " and ".join(map(str, candidates))
    raise TaskError(f"The built-in data is missing: no digits.npz in {folders}. Install the package again.")


@functools.lru_cache
def verify_file(path: Path, sha256: str, *, advice: str = _RESTORE) -> Path:
    """Return ``path`` if its content has this sha256, else raise TaskError with ``advice``; the result is cached."""
    if not path.is_file():
        raise TaskError(f"{path} is missing. Install the package again, or restore the file from git.")
    digest = sha256_file(path)
    if digest != sha256:
        raise TaskError(f"{path} is damaged or changed: its sha256 must be {sha256}, got {digest}. {advice}")
    return path
