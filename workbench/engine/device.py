"""Where an engine runs: what was asked for, what is there, and what is said where the two differ.

Imports torch only to ask what it finds; a runtime of another maker asks its own library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from workbench.core.errors import ConfigError
from workbench.core.machine import this_machine

if TYPE_CHECKING:
    from workbench.engine.config import InferenceConfig

_FORM = re.compile(r"cpu|cuda(:(0|[1-9]\d*))?")
_CUDA_BUILD = "on Linux, pip install --force-reinstall torch takes the CUDA build"


class Device(NamedTuple):
    """A device by torch's name (``"cpu"``, ``"cuda:0"``), and the note where it is not what was asked for."""

    name: str
    notes: tuple[str, ...] = ()

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"


class Found(NamedTuple):
    """What torch finds: the name of each CUDA device it can use, or why there is none and what to do."""

    names: tuple[str, ...] = ()
    reason: str = ""
    advice: str = ""


def check_device(device: str | None, *, use_gpu: bool) -> None:
    """Check ``InferenceConfig.device`` by its form; what is there is asked when a model is loaded.

    Raises
    ------
    ConfigError
        If it is no name of a device, or says the opposite of ``use_gpu``.

    Examples
    --------
    >>> check_device("cuda:1", use_gpu=False)
    """
    if device is None:
        return
    if _FORM.fullmatch(device) is None:
        raise ConfigError(
            f"InferenceConfig.device must be 'cpu', 'cuda' or 'cuda:N' with the number of a GPU, got {device!r}. "
            "Leave it at None to go by use_gpu."
        )
    if use_gpu and device == "cpu":
        raise ConfigError(
            "InferenceConfig.device='cpu' and use_gpu=True say the opposite of each other. Leave out one of them."
        )


def wants_gpu(config: InferenceConfig) -> bool:
    """Return whether a GPU is asked for, by ``device`` or by ``use_gpu``."""
    return config.use_gpu if config.device is None else config.device != "cpu"


def device_index(config: InferenceConfig) -> int:
    """Return the number of the GPU that is asked for: 0 unless ``device`` names another.

    Examples
    --------
    >>> device_index(InferenceConfig(device="cuda:1"))
    1
    """
    return int((config.device or "").partition(":")[2] or 0)


def asked(config: InferenceConfig) -> str:
    """Return the option by which a GPU is asked for, as it is written."""
    return "use_gpu=True" if config.device is None else f"device={config.device!r}"


def choose_device(config: InferenceConfig, found: Found | None = None) -> Device:
    """Return where torch runs a model: the GPU that is asked for, or the CPU with a note where there is none at all.

    Raises
    ------
    ConfigError
        If there are GPUs, and none has the number that is asked for.

    Examples
    --------
    >>> choose_device(InferenceConfig(use_gpu=True), Found(("NVIDIA L4",))).name
    'cuda:0'
    """
    if not wants_gpu(config):
        return Device("cpu")
    found = found if found is not None else find_cuda()
    index = device_index(config)
    if index < len(found.names):
        return Device(f"cuda:{index}")
    if found.names:
        there = ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(found.names))
        raise ConfigError(
            f"InferenceConfig.device={config.device!r} is not there. torch finds {there}: name one of them."
        )
    return Device("cpu", (f"{asked(config)}, but {found.reason}: running on the CPU ({found.advice})",))


def find_cuda() -> Found:
    """Ask torch which CUDA devices it can use, and where there is none, why."""
    import torch

    if torch.cuda.is_available():
        return Found(tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    machine = this_machine()
    return no_cuda(built=torch.version.cuda, version=torch.__version__, gpus=machine.gpus, reason=machine.gpu_reason)


def no_cuda(*, built: str | None, version: str, gpus: tuple[str, ...], reason: str | None) -> Found:
    """Return why torch finds no CUDA device: no GPU, a build without CUDA, or a driver that does not fit.

    Parameters
    ----------
    built
        The CUDA version that torch was built with, None for a build without.
    gpus, reason
        What the driver lists, or why it lists nothing.
    """
    if not gpus:
        why = (reason or "no NVIDIA GPU").rstrip(".").replace(": ", ", ")
        return Found((), f"torch finds no CUDA device ({why})", "nvidia-smi must list a GPU first")
    if built is None:
        return Found((), f"torch {version} is built without CUDA, and there is {', '.join(gpus)}", _CUDA_BUILD)
    return Found(
        (),
        f"torch cannot use {', '.join(gpus)}",
        f"its CUDA {built} may need a newer driver, or CUDA_VISIBLE_DEVICES hides the GPU",
    )


def openvino_device(config: InferenceConfig, available: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return OpenVINO's name of the device that is asked for, and the note where it is the CPU instead.

    Its GPUs are Intel's: one that is asked for by CUDA's name is none of them.
    """
    if config.device is not None:
        why, advice = "OpenVINO runs on no CUDA device", "use_gpu=True takes an Intel GPU; torch's backends take CUDA's"
    elif any(name.partition(".")[0] == "GPU" for name in available):
        return "GPU", ()
    else:
        why, advice = "OpenVINO finds no GPU it supports", "it needs an Intel GPU and its compute runtime"
    return "CPU", (f"{asked(config)}, but {why}: running on the CPU ({advice})",)
