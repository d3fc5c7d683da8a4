"""Choose the device of an engine from its config and the GPUs of this machine."""

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
    """A device by torch's name (``"cpu"``, ``"cuda:0"``), with a note if it differs from the config."""

    name: str
    notes: tuple[str, ...] = ()

    @property
    def is_cuda(self) -> bool:
        return self.name != "cpu"


class CudaDevices(NamedTuple):
    """The names of the CUDA devices that torch can use, or the reason and a remedy."""

    names: tuple[str, ...] = ()
    reason: str = ""
    advice: str = ""


def check_device(device: str | None, *, use_gpu: bool) -> None:
    """Check the form of ``InferenceConfig.device``; raise ConfigError also if it contradicts ``use_gpu``."""
    if device is None:
        return
    if _FORM.fullmatch(device) is None:
        raise ConfigError(
            f"InferenceConfig.device must be 'cpu', 'cuda' or 'cuda:N' with the number of a GPU, got {device!r}. "
            "Leave it at None to go by use_gpu."
        )
    if use_gpu and device == "cpu":
        raise ConfigError("InferenceConfig.device='cpu' contradicts use_gpu=True. Leave out one of them.")


def wants_gpu(config: InferenceConfig) -> bool:
    """Return whether ``device`` or ``use_gpu`` requests a GPU."""
    return config.use_gpu if config.device is None else config.device != "cpu"


def device_index(config: InferenceConfig) -> int:
    """Return the index of the requested GPU, 0 by default."""
    return int((config.device or "").partition(":")[2] or 0)


def gpu_request(config: InferenceConfig) -> str:
    """Return the option that requests a GPU, as written in code."""
    return "use_gpu=True" if config.device is None else f"device={config.device!r}"


def choose_device(config: InferenceConfig, devices: CudaDevices | None = None) -> Device:
    """Return torch's device: the requested GPU, or the CPU with a note without any; ConfigError for a missing index."""
    if not wants_gpu(config):
        return Device("cpu")
    devices = devices if devices is not None else find_cuda()
    index = device_index(config)
    if index < len(devices.names):
        return Device(f"cuda:{index}")
    if devices.names:
        listed = ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(devices.names))
        raise ConfigError(
            f"InferenceConfig.device={config.device!r} does not exist. torch finds {listed}: name one of them."
        )
    return Device("cpu", (f"{gpu_request(config)}, but {devices.reason}: running on the CPU ({devices.advice})",))


def find_cuda() -> CudaDevices:
    """Return torch's CUDA devices, or the reason why there are none."""
    import torch

    if torch.cuda.is_available():
        return CudaDevices(tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())))
    machine = this_machine()
    return why_no_cuda(
        built=torch.version.cuda, version=torch.__version__, gpus=machine.gpus, reason=machine.gpu_reason
    )


def why_no_cuda(*, built: str | None, version: str, gpus: tuple[str, ...], reason: str | None) -> CudaDevices:
    """Return why torch, ``built`` for a CUDA version, finds no device; ``reason`` is why the driver lists no GPUs."""
    if not gpus:
        cause = (reason or "no NVIDIA GPU").rstrip(".").replace(": ", ", ")
        return CudaDevices((), f"torch finds no CUDA device ({cause})", "nvidia-smi must list a GPU first")
    if built is None:
        return CudaDevices((), f"torch {version} is built without CUDA, and there is {', '.join(gpus)}", _CUDA_BUILD)
    return CudaDevices(
        (),
        f"torch cannot use {', '.join(gpus)}",
        f"its CUDA {built} may need a newer driver, or CUDA_VISIBLE_DEVICES hides the GPU",
    )


def openvino_device(config: InferenceConfig, available: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return OpenVINO's name of the requested device, or the CPU with a note. Its GPUs are Intel's, never CUDA's."""
    if config.device is not None:
        reason = "OpenVINO does not run on CUDA devices"
        advice = "use_gpu=True takes an Intel GPU; torch's backends take CUDA's"
    elif any(name.partition(".")[0] == "GPU" for name in available):
        return "GPU", ()
    else:
        reason, advice = "OpenVINO finds no GPU it supports", "it needs an Intel GPU and its compute runtime"
    return "CPU", (f"{gpu_request(config)}, but {reason}: running on the CPU ({advice})",)
