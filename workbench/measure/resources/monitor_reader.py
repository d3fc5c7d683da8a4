"""Read one sample of the usage of a process tree, the machine and the GPUs."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psutil

from workbench.core.cpu import allowed_cores, cpu_seconds, own_processes
from workbench.core.gpus import MIB, gpu_devices, number_or_none


class Sample(NamedTuple):
    """One sample, over the ``span_s`` seconds before ``at_s``.

    ``cpu_percent`` is the usage of the allowed cores by this process and its children, ``machine_percent`` that by all
    processes. ``rss_mib`` is the sum of their RSS, with shared pages in each. ``gpu_percent`` is the mean over GPUs,
    GPU memory and power are sums. Unreadable values are None.
    """

    at_s: float
    span_s: float
    cpu_percent: float | None
    machine_percent: float | None
    rss_mib: float | None
    gpu_percent: float | None = None
    gpu_memory_mib: float | None = None
    gpu_watts: float | None = None


class ResourceReader:
    """Reader of counters since its last reading; ``devices`` replace nvitop's in tests."""

    def __init__(self, *, gpu: bool = True, devices: Sequence[Any] | None = None) -> None:
        self._devices: Sequence[Any] = devices or ()
        self.gpu_reason: str | None = None if devices is not None else "GPUs are left out."
        if gpu and devices is None:
            self._devices, self.gpu_reason = gpu_devices()
        self._cores = allowed_cores()
        self.reset()

    @property
    def since_s(self) -> float:
        """Seconds since the last reading."""
        return time.perf_counter() - self._at

    def reset(self) -> None:
        """Read the counters without a sample."""
        self._cpu_s, _ = self._tree()
        self._idle_s = self._idle()
        self._at = time.perf_counter()

    def read(self, started: float) -> Sample:
        """Return the sample since the last reading; ``started`` is the origin of the time axis."""
        cpu_s, rss = self._tree()
        idle_s, now = self._idle(), time.perf_counter()
        span = max(now - self._at, 1e-6)
        room = span * len(self._cores)
        # the counters have steps of 10 ms: a share over a short time can be slightly out of range
        mine = min(max((cpu_s - self._cpu_s) / room, 0.0), 1.0)
        busy = min(max(1 - (idle_s - self._idle_s) / room, 0.0), 1.0)
        self._cpu_s, self._idle_s, self._at = cpu_s, idle_s, now
        return Sample(now - started, span, 100 * mine, 100 * busy, rss / MIB, *self._gpus())

    def _tree(self) -> tuple[float, int]:
        """Return CPU seconds and resident bytes of this process and its children.

        Linux adds the seconds of ended children to those of the parent.
        """
        cpu_s, rss = 0.0, 0
        for process in own_processes():
            with contextlib.suppress(psutil.Error), process.oneshot():  # the process has ended
                spent, rss = cpu_seconds(process), rss + process.memory_info().rss
                cpu_s += spent
        return cpu_s, rss

    def _idle(self) -> float:
        times = psutil.cpu_times(percpu=True)
        return sum(times[i].idle + getattr(times[i], "iowait", 0.0) for i in self._cores if i < len(times))

    def _gpus(self) -> tuple[float | None, float | None, float | None]:
        if not self._devices:
            return None, None, None
        use = [number_or_none(device.gpu_utilization()) for device in self._devices]
        memory = [number_or_none(device.memory_used()) for device in self._devices]
        power = [number_or_none(device.power_usage()) for device in self._devices]
        held, milliwatts = _all(memory, sum), _all(power, sum)
        watts = None if milliwatts is None else milliwatts / 1e3
        return _all(use, statistics.fmean), None if held is None else held / MIB, watts


def merge_pairs(samples: Sequence[Sample]) -> list[Sample]:
    """Merge adjacent samples: time-weighted mean of shares and power, maximum of memory."""
    pairs = [_join(samples[i], samples[i + 1]) for i in range(0, len(samples) - 1, 2)]
    return [*pairs, *samples[len(pairs) * 2 :]]


def _join(first: Sample, second: Sample) -> Sample:
    span = first.span_s + second.span_s

    def mean(values: Sequence[float]) -> float:
        return (values[0] * first.span_s + values[1] * second.span_s) / span

    figures = {
        name: _all((getattr(first, name), getattr(second, name)), max if name.endswith("_mib") else mean)
        for name in Sample._fields[2:]
    }
    return Sample(second.at_s, span, **figures)


def _all(values: Sequence[float | None], join: Callable[[Sequence[float]], float]) -> float | None:
    """Return ``join`` of the values, or None if one of them is None."""
    numbers = [value for value in values if value is not None]
    return join(numbers) if numbers and len(numbers) == len(values) else None
