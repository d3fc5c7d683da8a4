"""GPUs visible to CUDA in this process, and the device memory of a process, read with nvitop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.core.machine import this_machine

MIB = 2**20


def gpu_devices() -> tuple[tuple[Any, ...], str | None]:
    """Return nvitop's devices as ``CUDA_VISIBLE_DEVICES`` orders them (``cuda:0``, ...), or none with the reason."""
    machine = this_machine()
    if not machine.gpus:
        return (), machine.gpu_reason
    from nvitop import CudaDevice

    devices = tuple(CudaDevice.all())
    return devices, None if devices else "CUDA_VISIBLE_DEVICES hides every GPU of this machine."


def number_or_none(value: Any) -> float | None:
    """Return a figure of nvitop, or None if it is N/A (a string)."""
    return float(value) if isinstance(value, int | float) else None


class GpuUse(NamedTuple):
    """Device memory in MiB, or None if unknown; ``source`` is its source, or the reason."""

    mib: float | None
    source: str


class GpuMemory:
    """Peak device memory of a process over the calls of :meth:`read`.

    Create it before the process loads its model. If the driver does not report memory by process, as in most
    containers, the increase of the whole device is used, which includes other processes. Both include CUDA's context
    (some hundred MiB). By default the process is this one, and the devices are those of :func:`gpu_devices`.
    """

    def __init__(self, pid: int | None = None, *, devices: Sequence[Any] | None = None) -> None:
        self._devices, self._reason = gpu_devices() if devices is None else (tuple(devices), None)
        self._pid = os.getpid() if pid is None else pid
        self._before = [number_or_none(device.memory_used()) for device in self._devices]
        self._own: list[float | None] = [None] * len(self._devices)
        self._rise: list[float | None] = [None] * len(self._devices)

    def read(self) -> None:
        """Read the current memory."""
        for i, device in enumerate(self._devices):
            process = device.processes().get(self._pid)
            own = number_or_none(process.gpu_memory()) if process is not None else None
            self._own[i] = _larger(self._own[i], own)
            before, now = self._before[i], number_or_none(device.memory_used())
            if before is not None and now is not None:
                self._rise[i] = _larger(self._rise[i], max(0.0, now - before))

    def peak(self, index: int = 0) -> GpuUse:
        """Return the peak on the GPU ``cuda:index``."""
        if index >= len(self._devices):
            return GpuUse(None, self._reason or f"There is no GPU cuda:{index} here.")
        own, rise = self._own[index], self._rise[index]
        if own is not None:
            return GpuUse(own / MIB, "Memory of this process, reported by the driver.")
        if rise is not None:
            return GpuUse(rise / MIB, "Increase of the whole device: the driver does not report this process.")
        return GpuUse(None, f"The driver of cuda:{index} reports no memory of this process or of the device.")


def _larger(before: float | None, now: float | None) -> float | None:
    return max((value for value in (before, now) if value is not None), default=None)
