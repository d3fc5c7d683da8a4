"""Energy counters: RAPL of the CPU in sysfs, and NVML of GPUs."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from workbench.core.gpus import gpu_devices

POWERCAP = Path("/sys/class/powercap")
_CONTROLS = ("intel-rapl", "intel-rapl-mmio")
"""Two interfaces of the same registers: only the first one is counted."""


class Counter(Protocol):
    """Energy since its creation; it must be read every ``every_s`` seconds."""

    name: str
    every_s: float

    def joules(self) -> float:
        """Read the joules since the creation."""


class RaplDomain:
    """One RAPL domain, such as a CPU package: a file of microjoules that wraps around at its limit.

    Intel's Software Developer's Manual, volume 3, 16.10 (RAPL); AMD's CPUs use the same files. A package of 250 W
    wraps around after about 17 minutes, or 4 with a range of 65 kJ, hence ``every_s``.
    """

    every_s = 30.0

    def __init__(self, folder: Path) -> None:
        self.name = f"RAPL {(folder / 'name').read_text().strip()}"
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = self._read()
        self._sum = 0

    def joules(self) -> float:
        now = self._read()
        step = now - self._last
        self._sum += step if step >= 0 else step + self._range
        self._last = now
        return self._sum / 1e6

    def _read(self) -> int:
        return int(self._file.read_text())


class NvmlCounter:
    """A GPU's counter of millijoules (Volta and later), updated every 20 to 100 ms."""

    every_s = 60.0

    def __init__(self, handle: Any, name: str, nvml: Any) -> None:
        self.name = name
        self._handle, self._nvml = handle, nvml
        self._first = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    def joules(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) - self._first) / 1e3


class NvmlPower:
    """A GPU's integrated power (trapezoids), for GPUs without an energy counter."""

    every_s = 0.05

    def __init__(self, handle: Any, name: str, nvml: Any, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = f"{name}, integrated power every {1e3 * self.every_s:.0f} ms"
        self._handle, self._nvml, self._clock = handle, nvml, clock
        self._sum = 0.0
        self._at, self._watts = self._read()

    def joules(self) -> float:
        at, watts = self._read()
        self._sum += (at - self._at) * (watts + self._watts) / 2
        self._at, self._watts = at, watts
        return self._sum

    def _read(self) -> tuple[float, float]:
        return self._clock(), self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3


def rapl_counters(root: Path = POWERCAP) -> tuple[list[Counter], str | None]:
    """Return a counter for each top-level domain, or none with the reason.

    These are packages and ``dram``; ``core`` and ``uncore`` are part of a package. ``psys`` is the whole platform,
    packages included, and is used if there is no package.
    """
    if platform.system() != "Linux":
        return [], f"{platform.system()} has no file of CPU energy; RAPL requires Linux."
    zones = _zones(root)
    if not zones:
        remedy = "On bare metal, `sudo modprobe intel_rapl_common intel_rapl_msr` may help."
        return [], f"{root} lists no RAPL domain; most virtual machines and containers have none. {remedy}"
    packages = [zone for zone, name in zones if name.startswith("package")]
    chosen = [*packages, *(zone for zone, name in zones if name == "dram")] if packages else []
    chosen = chosen or [zone for zone, name in zones if name == "psys"]
    counters: list[Counter] = []
    for zone in chosen:
        try:
            counters.append(RaplDomain(zone))
        except PermissionError:
            files = " ".join(str(each / "energy_uj") for each in chosen)
            return [], (
                f"{zone / 'energy_uj'} is readable by root only (CVE-2020-8694). On your own machine, run "
                f"sudo chmod a+r {files} (until reboot)."
            )
        except (OSError, ValueError) as error:
            return [], f"{zone} cannot be read: {error}."
    return counters, None if counters else f"{root} lists neither a package nor a platform."


def _zones(root: Path) -> list[tuple[Path, str]]:
    """Return the folders of one control type with their domain names."""
    for control in _CONTROLS:
        folders = sorted(path for path in root.glob(f"{control}:*") if (path / "name").is_file())
        if folders:
            return [(folder, (folder / "name").read_text().strip()) for folder in folders]
    return []


def nvml_counters(indices: Sequence[int] | None = None, *, nvml: Any = None) -> tuple[list[Counter], str | None]:
    """Return a counter for each GPU in ``indices`` (``cuda:N``; all by default), or none with the reason."""
    if nvml is not None:
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        reason = None if handles else "NVML lists no GPU."
    else:
        devices, reason = gpu_devices()
        handles = [device.handle for device in devices]
    if not handles:
        return [], reason
    if nvml is None:
        import pynvml

        nvml = pynvml
    chosen = list(range(len(handles))) if indices is None else list(indices)
    missing = [index for index in chosen if index >= len(handles)]
    if missing:
        return [], f"GPU cuda:{missing[0]} does not exist."
    try:
        return [_gpu_counter(handles[index], nvml) for index in chosen], None
    except nvml.NVMLError as error:
        return [], f"The driver reports neither energy nor power: {str(error).strip().rstrip('.')}."


def _gpu_counter(handle: Any, nvml: Any) -> Counter:
    name = f"NVML {nvml.nvmlDeviceGetName(handle)}"
    try:
        return NvmlCounter(handle, name, nvml)
    except nvml.NVMLError:  # before Volta
        return NvmlPower(handle, name, nvml)
