"""The GPUs that CUDA shows to this process, as nvitop tells of them, and the memory that a process holds there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.core.machine import this_machine

MIB = 2**20


def gpu_devices() -> tuple[tuple[Any, ...], str | None]:
    """Return nvitop's devices in the order of ``cuda:0``, ``cuda:1``, ..., or none with the reason.

    ``CUDA_VISIBLE_DEVICES`` is followed. Neither nvitop nor NVML is loaded again where there is no GPU.

    Examples
    --------
    >>> devices, reason = gpu_devices()
    >>> bool(devices) or reason is not None
    True
    """
    machine = this_machine()
    if not machine.gpus:
        return (), machine.gpu_reason
    from nvitop import CudaDevice

    found = tuple(CudaDevice.all())
    return found, None if found else "CUDA_VISIBLE_DEVICES hides every GPU of this machine."


def number_or_none(value: Any) -> float | None:
    """Return a figure of nvitop, None where it is N/A (a text)."""
    return float(value) if isinstance(value, int | float) else None


class GpuUse(NamedTuple):
    """Device memory in MiB, None where it is not known; ``how`` says how it was found, or why not."""

    mib: float | None
    how: str


class GpuMemory:
    """The most memory that one process held on a GPU, at the moments when :meth:`read` was called.

    Made before the process loads its model. The driver tells it by process where it shows them. In containers it
    mostly does not, since process numbers differ outside: then it is what the whole device holds more than when this
    object was made, and other processes that allocate meanwhile count too. CUDA's own context (some hundred MiB) is in
    either. A runtime that keeps what it freed shows its peak after the calls, too.

    Parameters
    ----------
    pid : int, optional
        The process; this one by default.
    devices : sequence, optional
        nvitop's devices, those of :func:`gpu_devices` by default; others in tests.

    Examples
    --------
    >>> memory = GpuMemory()
    >>> memory.read()
    >>> use = memory.peak(0)
    >>> use.mib is None or use.mib >= 0
    True
    """

    def __init__(self, pid: int | None = None, *, devices: Sequence[Any] | None = None) -> None:
        found, reason = gpu_devices() if devices is None else (tuple(devices), None)
        self._pid = os.getpid() if pid is None else pid
        self._devices, self._reason = found, reason
        self._before = [number_or_none(device.memory_used()) for device in found]
        self._own: list[float | None] = [None] * len(found)
        self._rise: list[float | None] = [None] * len(found)

    def read(self) -> None:
        """Read what is held now."""
        for i, device in enumerate(self._devices):
            process = device.processes().get(self._pid)
            own = number_or_none(process.gpu_memory()) if process is not None else None
            self._own[i] = _larger(self._own[i], own)
            before, now = self._before[i], number_or_none(device.memory_used())
            if before is not None and now is not None:
                self._rise[i] = _larger(self._rise[i], max(0.0, now - before))

    def peak(self, index: int = 0) -> GpuUse:
        """Return the most that was held on the GPU ``cuda:index``."""
        if index >= len(self._devices):
            return GpuUse(None, self._reason or f"There is no GPU cuda:{index} here.")
        own, rise = self._own[index], self._rise[index]
        if own is not None:
            return GpuUse(own / MIB, "What the driver tells of this process.")
        if rise is not None:
            words = "The driver does not show this process, as in most containers: what the whole device held more."
            return GpuUse(rise / MIB, words)
        return GpuUse(None, f"The driver of cuda:{index} tells neither the memory of this process nor of the device.")


def _larger(before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return now if before is None else before
    return max(before, now)
