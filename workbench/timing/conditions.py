"""System load during a timing: other processes, steal time, clock and temperature."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import psutil

from workbench.core.cpu import allowed_cores, cpu_seconds, own_processes
from workbench.core.gpus import gpu_devices, number_or_none

MAX_OTHERS = 0.10
"""Share of the cores that other processes may use before a timing counts as disturbed."""
MAX_STEAL = 0.02
"""The same for other virtual machines on the same hardware."""
MAX_CLOCK_DROP = 0.10
"""Share by which the clock may fall below its highest value."""
_SENSORS_EVERY_S = 1.0
"""Reading the clock of a core can wake it up, and machines have hundreds of them."""
_CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "acpitz")
_NO_SENSOR = (OSError, RuntimeError, NotImplementedError, AttributeError)
_BUSY = ("user", "nice", "system", "irq", "softirq")


@dataclass(frozen=True)
class Conditions:
    """System load of an interval, on the cores that this process may use.

    Attributes
    ----------
    seconds : float
        Wall time of the interval.
    others, stolen : float or None
        Shares of the cores' time used by processes outside the timing, and by other virtual machines (steal time).
    mhz, gpu_mhz : (float, float) or None
        Lowest and highest clock of CPU and GPU in MHz.
    celsius : float or None
        Highest temperature.

    Examples
    --------
    >>> Conditions(seconds=2.0, others=0.25, stolen=0.0).reasons
    ('other processes used 25 % of the cores',)
    """

    seconds: float
    others: float | None = None
    stolen: float | None = None
    mhz: tuple[float, float] | None = None
    celsius: float | None = None
    gpu_mhz: tuple[float, float] | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The disturbances that make the figures unreliable; empty without any."""
        reasons = []
        if self.others is not None and self.others > MAX_OTHERS:
            reasons.append(f"other processes used {100 * self.others:.0f} % of the cores")
        if self.stolen is not None and self.stolen > MAX_STEAL:
            reasons.append(f"the hypervisor took {100 * self.stolen:.0f} % of the cores (steal time)")
        for name, clock in (("CPU", self.mhz), ("GPU", self.gpu_mhz)):
            if clock is not None and clock[0] < clock[1] * (1 - MAX_CLOCK_DROP):
                reasons.append(f"the {name} clock varied from {clock[0]:.0f} to {clock[1]:.0f} MHz")
        return tuple(reasons)

    def __str__(self) -> str:
        parts = [f"{self.seconds:.1f} s"]
        for name, share in (("other processes", self.others), ("steal", self.stolen)):
            if share is not None:
                parts.append(f"{name} {100 * share:.1f} %")
        for name, clock in (("CPU", self.mhz), ("GPU", self.gpu_mhz)):
            if clock is not None:
                parts.append(f"{name} {_span(clock)} MHz")
        if self.celsius is not None:
            parts.append(f"{self.celsius:.0f} °C")
        return ", ".join(parts)


def _span(clock: tuple[float, float]) -> str:
    low, high = (f"{value:.0f}" for value in clock)
    return low if low == high else f"{low} to {high}"


class LoadMonitor:
    """Monitor of the system load; :meth:`lap` returns the conditions since the last lap.

    A reading takes about a millisecond: read between blocks, never within one.

    Parameters
    ----------
    pids : iterable of int
        Processes that belong to the timing, in addition to this one and its children.
    gpu : bool
        Read the clock of the GPU too. The clock of an idle GPU is not stable, so set it for work on a GPU only.

    Examples
    --------
    >>> LoadMonitor().lap().seconds > 0
    True
    """

    def __init__(self, pids: Iterable[int] = (), *, gpu: bool = False) -> None:
        self._pids, self._gpu = tuple(pids), gpu
        self._sensors_at = float("inf")  # no clock yet: that of a core that still idles would look like a drop
        self._last = self._read()
        self._sensors_at = float("-inf")

    def lap(self) -> Conditions:
        """Return the conditions since the last lap, or since the monitor was made."""
        first, self._last = self._last, self._read()
        last = self._last
        seconds = last.at - first.at
        room = max(seconds * last.cores, 1e-9)

        def share(used_s: float) -> float:  # the counters have steps of 10 ms: a difference can exceed a short lap
            return min(max(used_s, 0.0) / room, 1.0)

        return Conditions(
            seconds=seconds,
            others=share((last.busy - first.busy) - (last.own - first.own)),
            stolen=None if first.stolen is None or last.stolen is None else share(last.stolen - first.stolen),
            mhz=_ends([first.mhz, last.mhz]),
            celsius=max((one.celsius for one in (first, last) if one.celsius is not None), default=None),
            gpu_mhz=_ends([first.gpu_mhz, last.gpu_mhz]),
        )

    def _read(self) -> _Reading:
        cpus = psutil.cpu_times(percpu=True)
        mine = [cpus[i] for i in allowed_cores() if i < len(cpus)] or cpus
        busy = sum(getattr(cpu, name, 0.0) for cpu in mine for name in _BUSY)
        stolen = sum(cpu.steal for cpu in mine) if hasattr(mine[0], "steal") else None
        reading = _Reading(time.perf_counter(), len(mine), busy, _own_cpu_s(self._pids), stolen)
        if reading.at - self._sensors_at < _SENSORS_EVERY_S:
            return reading
        self._sensors_at = reading.at
        return reading._replace(mhz=_cpu_mhz(), celsius=_celsius(), gpu_mhz=_gpu_mhz() if self._gpu else None)


class _Reading(NamedTuple):
    """Counters at one moment: seconds of ``cores`` since boot and of the timing's own processes, and sensors."""

    at: float
    cores: int
    busy: float
    own: float
    stolen: float | None
    mhz: float | None = None
    celsius: float | None = None
    gpu_mhz: float | None = None


def merge_conditions(laps: Sequence[Conditions]) -> Conditions | None:
    """Return the conditions over several laps, None without any; shares are weighted by the laps' seconds.

    Examples
    --------
    >>> merge_conditions([Conditions(seconds=1.0, others=0.75), Conditions(seconds=2.0, others=0.0)]).others
    0.25
    """
    if not laps:
        return None

    def mean(values: Iterable[float | None]) -> float | None:
        pairs = [(lap.seconds, value) for lap, value in zip(laps, values, strict=True) if value is not None]
        weight = sum(seconds for seconds, _ in pairs)
        return sum(seconds * value for seconds, value in pairs) / weight if weight else None

    return Conditions(
        seconds=sum(lap.seconds for lap in laps),
        others=mean(lap.others for lap in laps),
        stolen=mean(lap.stolen for lap in laps),
        mhz=_ends(end for lap in laps for end in lap.mhz or ()),
        celsius=max((lap.celsius for lap in laps if lap.celsius is not None), default=None),
        gpu_mhz=_ends(end for lap in laps for end in lap.gpu_mhz or ()),
    )


def _ends(values: Iterable[float | None]) -> tuple[float, float] | None:
    numbers = [value for value in values if value is not None]
    return (min(numbers), max(numbers)) if numbers else None


def _own_cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of this process, its children and ``pids``; those of ended children stay counted."""
    total = 0.0
    for process in own_processes(pids):
        with contextlib.suppress(psutil.Error):  # the process has ended
            total += cpu_seconds(process)
    return total


def _cpu_mhz() -> float | None:
    """Return the fastest clock of the allowed cores: the others idle, and would lower a mean."""
    with contextlib.suppress(*_NO_SENSOR):
        cores = psutil.cpu_freq(percpu=True) or []
        mine = [cores[i].current for i in allowed_cores() if i < len(cores)] or [core.current for core in cores]
        return max((mhz for mhz in mine if mhz > 0), default=None)
    return None


def _celsius() -> float | None:
    with contextlib.suppress(*_NO_SENSOR):
        chips = psutil.sensors_temperatures()
        return max((chip.current for name in _CPU_CHIPS for chip in chips.get(name, ()) if chip.current), default=None)
    return None


def _gpu_mhz() -> float | None:
    """Return the highest clock of any GPU's cores, None without a GPU."""
    clocks = [number_or_none(device.sm_clock()) for device in gpu_devices()[0]]
    return max((clock for clock in clocks if clock is not None), default=None)
